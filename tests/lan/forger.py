"""A stranger on the LAN: registers a service of our type with whatever TXT record it is given.

python -m tests.lan.forger OWN-ADDRESS NAME RECORD(hex)      announces it, prints "ready", and stays
python -m tests.lan.forger OWN-ADDRESS NAME --withdraw       says goodbye for a service that is somebody else's
"""

from __future__ import annotations

import socket
import sys

from zeroconf import ServiceInfo, Zeroconf

from meshray.wire.advert import SERVICE_TYPE


def main(own_address: str, name: str, record: str) -> None:
    withdraw = record == "--withdraw"
    info = ServiceInfo(
        SERVICE_TYPE, name, port=1, properties=b"" if withdraw else bytes.fromhex(record), server="forger.local.",
        addresses=[socket.inet_aton("10.77.0.200")],
    )  # fmt: skip
    zeroconf = Zeroconf(interfaces=[own_address])
    if withdraw:
        zeroconf.send(zeroconf.generate_service_broadcast(info, 0))
    else:
        zeroconf.register_service(info, cooperating_responders=True)
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
