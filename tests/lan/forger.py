"""A stranger on the LAN, for whom there are no rules.

python -m tests.lan.forger OWN-ADDRESS NAME RECORD(hex)      announces this TXT record for a service of our type
python -m tests.lan.forger OWN-ADDRESS NAME --withdraw       says goodbye for a service that is somebody else's
python -m tests.lan.forger OWN-ADDRESS - --names             names 100 services that nobody has

Prints "ready" when that is done, and stays until its input ends.
"""

from __future__ import annotations

import socket
import sys

from zeroconf import DNSOutgoing, DNSPointer, ServiceInfo, Zeroconf

from meshray.wire.advert import SERVICE_TYPE, service_name

RESPONSE = 0x8400  # flags of an authoritative one
PTR, IN = 12, 1


def main(own_address: str, name: str, record: str) -> None:
    zeroconf = Zeroconf(interfaces=[own_address])
    if record == "--names":
        for number in range(100):
            pointer = DNSPointer(SERVICE_TYPE, PTR, IN, 4500, service_name(number.to_bytes(8, "big")))
            response = DNSOutgoing(RESPONSE)
            response.add_answer_at_time(pointer, 0)
            zeroconf.send(response)
    elif record == "--withdraw":
        zeroconf.send(zeroconf.generate_service_broadcast(service(name, b""), 0))
    else:
        zeroconf.register_service(service(name, bytes.fromhex(record)), cooperating_responders=True)
    print("ready", flush=True)
    sys.stdin.read()


def service(name: str, record: bytes) -> ServiceInfo:
    address = socket.inet_aton("10.77.0.200")
    return ServiceInfo(SERVICE_TYPE, name, port=1, properties=record, server="forger.local.", addresses=[address])


if __name__ == "__main__":
    main(*sys.argv[1:])
