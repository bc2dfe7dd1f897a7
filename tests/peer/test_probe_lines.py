"""Datagrams to addresses: which one, and what waits for a connection. The endpoint is a fake."""

from __future__ import annotations

import msgspec

from meshray.config import DEFAULT
from meshray.peer.probe_lines import PREFIX, ProbeLines
from meshray.transport.mesh_lines import Lost, Ready, Unreachable
from meshray.wire.peers import PeerMessage, Plane

CONFIG = msgspec.structs.replace(DEFAULT, probes_kept_max=3, probes_kept_s=2.0, probe_lines_max=2)
A, B = b"node---a", b"node---b"
FOUR, SIX = "10.0.0.1:7637", "[fd00::1]:7637"


class Endpoint:
    """Takes what is for targets that are up."""

    def __init__(self) -> None:
        self.dialled: dict[bytes, str] = {}
        self.up: set[bytes] = set()
        self.sent: list[tuple[bytes, bytes]] = []

    def dial(self, target: bytes, address: str, key_id: str = "") -> None:
        self.dialled[target] = address

    def forget(self, target: bytes) -> None:
        del self.dialled[target]

    def send(
        self, target: bytes, plane: Plane, destination: bytes, message: PeerMessage, payload: bytes, now: float
    ) -> bool:
        assert target in self.dialled
        if target in self.up:
            self.sent.append((destination, payload))
        return target in self.up

    def connect(self, lines: ProbeLines, address: str, now: float = 0.0, fresh: bool = True) -> object:
        self.up.add(target(address))
        return lines.on_event(Ready(target(address), Plane.PROBE, fresh), now)


def target(address: str) -> bytes:
    return PREFIX + address.encode()


def test_what_is_said_before_there_is_a_connection_waits_for_it() -> None:
    endpoint = Endpoint()
    lines = ProbeLines(endpoint, CONFIG)
    lines.send(A, FOUR, b"1", 0.0)
    lines.send(B, FOUR, b"2", 0.0)
    assert endpoint.dialled == {target(FOUR): FOUR}
    assert endpoint.sent == []
    assert endpoint.connect(lines, FOUR) == (B, True)
    assert endpoint.sent == [(A, b"1"), (B, b"2")]
    lines.send(A, FOUR, b"3", 0.0)
    assert endpoint.sent[-1] == (A, b"3")


def test_a_few_wait_and_not_for_long() -> None:
    endpoint = Endpoint()
    lines = ProbeLines(endpoint, CONFIG)
    for number in range(5):
        lines.send(A, FOUR, b"%d" % number, float(number))
    endpoint.connect(lines, FOUR, 5.5)
    assert [payload for _, payload in endpoint.sent] == [b"4"]  # 0 and 1 were too many, 2 and 3 are too old


def test_a_connection_that_only_had_no_room_is_no_news() -> None:
    endpoint = Endpoint()
    lines = ProbeLines(endpoint, CONFIG)
    lines.send(A, FOUR, b"1", 0.0)
    assert endpoint.connect(lines, FOUR, fresh=False) is None
    assert endpoint.sent == [(A, b"1")]


def test_a_lost_connection_tells_who_cannot_be_reached() -> None:
    endpoint = Endpoint()
    lines = ProbeLines(endpoint, CONFIG)
    lines.send(A, FOUR, b"1", 0.0)
    assert lines.on_event(Lost(target(FOUR), Plane.PROBE), 1.0) == (A, False)
    assert lines.on_event(Lost(target(SIX), Plane.PROBE), 1.0) is None  # of a line that was forgotten


def test_an_address_that_failed_is_not_the_first_choice() -> None:
    endpoint = Endpoint()
    lines = ProbeLines(endpoint, CONFIG)
    assert lines.choose((FOUR, SIX)) == FOUR
    lines.send(A, FOUR, b"1", 0.0)
    assert lines.on_event(Unreachable(target(FOUR), Plane.PROBE, 1), 1.0) is None
    assert lines.choose((FOUR, SIX)) == SIX
    lines.send(A, SIX, b"1", 1.0)
    lines.on_event(Unreachable(target(SIX), Plane.PROBE, 1), 2.0)
    assert lines.choose((FOUR, SIX)) == FOUR  # it failed longer ago
    endpoint.connect(lines, SIX)
    assert lines.choose((FOUR, SIX)) == SIX


def test_too_many_lines() -> None:
    endpoint = Endpoint()
    lines = ProbeLines(endpoint, CONFIG)
    for number in range(4):
        lines.send(A, f"10.0.0.{number}:1", b"", 0.0)
    assert len(lines) == 2
    assert list(endpoint.dialled.values()) == ["10.0.0.2:1", "10.0.0.3:1"]


def test_a_node_that_is_gone_takes_its_line_along_but_nobody_elses() -> None:
    endpoint = Endpoint()
    lines = ProbeLines(endpoint, CONFIG)
    lines.send(A, FOUR, b"", 0.0)
    lines.send(B, FOUR, b"", 0.0)  # has started at the address of A
    lines.forget(FOUR, A)
    assert len(lines) == 1
    lines.forget(FOUR, B)
    lines.forget(FOUR, B)
    assert len(lines) == 0
    assert endpoint.dialled == {}


def test_connections_that_are_made_anew_are_dialled_again() -> None:
    endpoint = Endpoint()
    lines = ProbeLines(endpoint, CONFIG)
    lines.send(A, FOUR, b"1", 0.0)
    lines.redial()
    assert endpoint.dialled == {}
    lines.send(A, FOUR, b"2", 0.0)
    endpoint.connect(lines, FOUR)
    assert endpoint.sent == [(A, b"2")]
