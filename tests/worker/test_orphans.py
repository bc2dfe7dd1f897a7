"""What a worker tells the peer of a submitter that died."""

from __future__ import annotations

from collections import deque
from typing import Any

from meshray.config import DEFAULT
from meshray.wire import messages as m
from meshray.worker.orphans import Item, Orphanage

PEER, DRIVER, W, V = (b"the-peer" + label.ljust(8, b"\0") for label in (b"", b"drv", b"w", b"v"))


class Engine:
    """What `Orphanage` needs of an engine."""

    def __init__(self) -> None:
        self.config = DEFAULT
        self.peer = PEER
        self.dead: dict[bytes, None] = {}
        self.sent: list[Any] = []
        self.repinned: list[bytes] = []

    def send(self, to: bytes, message: Any) -> None:
        assert to == PEER
        self.sent.append(message)

    def pin_for_peer(self, receiver: bytes, carrier: bytes) -> None:
        self.repinned.append(carrier)


def make() -> tuple[Engine, Orphanage]:
    engine = Engine()
    orphans = Orphanage(engine)  # type: ignore[arg-type]
    orphans.driver = DRIVER
    return engine, orphans


def item(source: bytes, seq: int, lease: int = 1) -> Item:
    return source, lease, m.Task(seq, source + seq.to_bytes(8, "big"), b"", b"")


def send(orphans: Orphanage, *items: Item) -> list[bool]:
    return [orphans.takes(each, m.Result(each[2].seq, [b"v"])) for each in items]


def ids(orphans: list[m.Orphan]) -> list[int]:
    return [int.from_bytes(orphan.task_id[16:], "big") for orphan in orphans]


def test_results_are_kept_until_acknowledged_and_remembered_after_that() -> None:
    engine, orphans = make()
    assert send(orphans, item(W, 1), item(W, 2), item(W, 3)) == [False] * 3
    orphans.on_acknowledged(1, 2)
    engine.dead[W] = None
    orphans.tell(W, deque(), None)
    (told,) = engine.sent
    assert (ids(told.finished), ids(told.begun), told.running) == ([3], [1, 2], [])
    assert not orphans.unacknowledged


def test_another_lease_acknowledges_what_came_before() -> None:
    engine, orphans = make()
    send(orphans, item(W, 1), item(W, 2))
    orphans.on_acknowledged(2, 0)
    engine.dead[W] = None
    orphans.tell(W, deque(), None)
    assert ids(engine.sent[0].begun) == [1, 2]


def test_what_runs_goes_to_the_peer_when_it_is_done() -> None:
    engine, orphans = make()
    running = item(W, 5)
    engine.dead[W] = None
    orphans.tell(W, deque(), running)
    assert ids(engine.sent.pop().running) == [5]
    assert orphans.runs(running)
    assert send(orphans, running) == [True]
    (done,) = engine.sent
    assert (done.submitter, done.orphan.seq, done.orphan.result.values) == (W, 5, [b"v"])
    assert engine.repinned == [running[2].task_id] * 2
    assert not orphans.runs(running)


def test_what_was_not_reported_is_not_begun_and_its_result_is_for_nobody() -> None:
    engine, orphans = make()
    engine.dead[W] = None
    orphans.tell(W, deque(), item(V, 1))
    assert not engine.sent
    assert not orphans.runs(item(W, 6))
    assert send(orphans, item(W, 6)) == [True]
    assert not engine.sent


def test_unsent_results_are_finished_and_those_of_others_stay() -> None:
    engine, orphans = make()
    mine, others = item(W, 1), item(V, 2)
    done = deque([(mine, m.Result(1, [b"v"])), (others, m.Result(2, [b"v"]))])
    engine.dead[W] = None
    orphans.tell(W, done, mine)  # the main thread has finished it, and not taken the next
    (told,) = engine.sent
    assert (ids(told.finished), told.running) == ([1], [])
    assert [entry[0] for entry in done] == [others]


def test_the_peers_own_tasks_are_not_kept() -> None:
    _, orphans = make()
    assert send(orphans, item(PEER, 1)) == [False]
    assert not orphans.unacknowledged


def test_what_is_remembered_is_bounded() -> None:
    engine, orphans = make()
    for seq in range(DEFAULT.begun_remembered_max + 10):
        send(orphans, item(W, seq))
    orphans.on_acknowledged(1, 1 << 40)
    orphans.tell(W, deque(), None)
    assert len(engine.sent[0].begun) == DEFAULT.begun_remembered_max
