"""ZeroMQ and mDNS, and nothing else knows them.

- `options.py`: every socket option of the mesh, with its reason
- `endpoint.py`: one process's face to the others: a ROUTER that only receives, DEALERs that only send
- `discovery.py`: finding peers on the LAN, as the peer's loop sees it; it alone loads the next ones
- `mdns.py`: the thread that speaks mDNS; `sightings.py`: which records are worth a dial
- `interfaces.py`: which interfaces are the LAN, and when that changes
"""
