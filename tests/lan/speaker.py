"""A driver in all but what it runs: it attaches to the peer of its host, and speaks with processes of other hosts.

Told by line, `say DESTINATION COUNT SIZE` sends so many numbered messages; whatever comes from another host and is no
answer is sent back. After each line, `look` included, it prints what it has heard so far, as JSON.
"""

from __future__ import annotations

import os
import select
import sys
from collections import Counter

from meshray.ids import new_process
from meshray.local import find_peers, peer_process
from meshray.runtime.abroad import Abroad
from meshray.transport.endpoint import Endpoint
from meshray.wire import messages as m
from meshray.wire.codec import decode
from tests.lan.out import tell

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SAYING, ANSWERING = 1, 2
"""In the field `lease` of what is said."""


class Speaker:
    def __init__(self) -> None:
        (record,) = find_peers()
        node = bytes.fromhex(record.node)
        self.id = new_process(node)
        self.peer = peer_process(node)
        self.endpoint = Endpoint(record.folder, self.id)
        self.abroad = Abroad(self.endpoint, self.peer, 64 << 20)
        self.endpoint.detour = self.abroad.send
        self.last: dict[str, int] = {}  # by who has answered: the number of the last answer
        self.disorder = 0
        self.heard: Counter[str] = Counter()
        self.gone: list[str] = []
        self.died: list[str] = []
        self.settled: list[str] = []
        job = m.JobInfo(self.id, sys.executable, sys.prefix, sys.path, os.getcwd(), "", "test")
        self.endpoint.send(self.peer, m.Attach(m.PROTOCOL, os.getpid(), PYTHON, job))

    def say(self, destination: bytes, count: int, size: int) -> None:
        for number in range(count):
            self.endpoint.send(destination, m.Results(SAYING, [m.Result(number, [bytes(size)])]))

    def turn(self) -> None:
        while batch := self.endpoint.receive():
            for source, message in batch:
                self.on_message(source, message)

    def on_message(self, source: bytes, message: m.Message) -> None:
        self.heard[type(message).__name__] += 1
        if isinstance(message, m.Relayed):
            assert source == self.peer
            self.abroad.heard(message.source)
            self.on_message(message.source, decode(message.data))
        elif isinstance(message, m.RelayTaken):
            self.abroad.on_taken(message)
        elif isinstance(message, m.Results) and message.lease == SAYING:
            self.endpoint.send(source, m.Results(ANSWERING, message.results))
        elif isinstance(message, m.Results):
            number = message.results[0].seq
            self.disorder += number != self.last.get(source.hex(), -1) + 1
            self.last[source.hex()] = number
        elif isinstance(message, m.NodeGone):
            self.abroad.forget_host(message.node)
            self.gone.append(message.node.hex())
            self.endpoint.send(self.peer, m.NodeGoneSeen(message.node))
        elif isinstance(message, m.ProcessDied):
            self.abroad.forget(message.process)
            self.died.append(message.process.hex())
            self.endpoint.send(self.peer, m.DeathSeen(message.process))
        elif isinstance(message, m.DeathSettled):
            self.settled.append(message.process.hex())

    def told(self) -> dict[str, object]:
        return {
            "process": self.id.hex(),
            "last": self.last,
            "disorder": self.disorder,
            "heard": dict(self.heard),
            "gone": self.gone,
            "died": self.died,
            "settled": self.settled,
            "waiting": self.abroad.waiting,  # for windows
            "unsent": self.endpoint.clogged,
        }


def main() -> None:
    speaker = Speaker()
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(speaker.endpoint.fd, select.POLLIN)
    while True:
        poll.poll(10 if speaker.endpoint.must_retry else None)
        speaker.turn()
        speaker.endpoint.flush()
        if not select.select([0], [], [], 0)[0]:
            continue
        words = sys.stdin.buffer.raw.readline().decode().split()  # type: ignore[union-attr]
        if not words:
            return
        if words[0] == "say":
            speaker.say(bytes.fromhex(words[1]), int(words[2]), int(words[3]))
        speaker.turn()
        tell(speaker.told())


if __name__ == "__main__":
    main()
