"""How messages leave a process and arrive, and how peers find each other. Nothing else knows sockets of messages.

- `endpoint.py`: one process's face to the others of its host: Unix sockets
- `discovery.py`: finding peers on the LAN, as the peer's loop sees it; it alone loads the next ones
- `mdns.py`: the thread that speaks mDNS; `sightings.py`: which records are worth a dial
- `holders.py`: who has a port that is taken
- `founding.py`: whether this host may make a mesh; `multicast.py`, `paths.py`: what `meshray doctor` tries
- `interfaces.py`: which interfaces are the LAN, and when that changes
- `mesh_endpoint.py`: a peer's face to the other peers: ZeroMQ over TCP, encrypted (its head says which files do what)
"""
