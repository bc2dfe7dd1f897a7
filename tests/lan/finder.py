"""Runs `Discovery` on a host as a peer will: polls its descriptor, and prints each finding as a line of JSON.

    python -m tests.lan.finder [ADDRESS TO BIND]...

Commands come by standard input, as JSON lines: {"offer": {"disk": 2}} advertises these custom resources, {"stats": 0},
{"keys": 0} reads the keys anew, {"close": 0} withdraws and ends.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time

from meshray import meshkey
from meshray.config import DEFAULT
from meshray.ids import new_node
from meshray.resources import to_amounts
from meshray.transport.discovery import Addresses, Discovery, Finding, Found, Trouble
from meshray.wire.advert import Advert


def tell(**what: object) -> None:
    print(json.dumps(what | {"at": time.monotonic()}), flush=True)


def tell_finding(finding: Finding) -> None:
    if isinstance(finding, Found):
        advert = finding.advert
        tell(
            found=advert.node.hex(), hosts=finding.hosts, port=advert.port, serial=advert.serial,
            incarnation=advert.incarnation, protocol=advert.protocol, version=advert.version, python=advert.python,
            cpus=advert.cpus, gpus=advert.gpus, memory_bytes=advert.memory_bytes, resources=advert.resources,
        )  # fmt: skip
    elif isinstance(finding, Addresses):
        tell(addresses=finding.hosts)
    elif isinstance(finding, Trouble):
        tell(trouble=finding.text)
    else:
        tell(withdrawn=finding.node.hex())


def advert_of(node: bytes, resources: dict[str, float]) -> Advert:
    return Advert(
        protocol=1, version="0.1.0", python="3.11", node=node, incarnation=0, serial=0, port=DEFAULT.mesh_port,
        addresses=[], cpus=20_000, gpus=0, memory_bytes=1 << 30, resources=to_amounts(resources),
    )  # fmt: skip


def main(bind: list[str]) -> None:
    node = new_node()
    discovery = Discovery(meshkey.load(), node, bind=bind)
    discovery.start()
    tell(node=node.hex())
    pending = b""
    while True:
        readable, _, _ = select.select([0, discovery.fd], [], [])
        if discovery.fd in readable:
            for finding in discovery.take():
                tell_finding(finding)
        if 0 not in readable:
            continue
        data = os.read(0, 65536)
        *lines, pending = (pending + data).split(b"\n")
        for command in map(json.loads, lines):
            if "offer" in command:
                discovery.advertise(advert_of(node, command["offer"]))
            elif "stats" in command:
                stats = discovery.stats()
                tell(there=stats.there, dropped=stats.dropped, hosts=stats.hosts, trouble_now=stats.trouble)
            elif "keys" in command:
                discovery.use_keys(meshkey.load())
        if not data or any("close" in json.loads(line) for line in lines):
            tell(closed=discovery.close())
            return


if __name__ == "__main__":
    main(sys.argv[1:])
