"""Who must give way."""

from __future__ import annotations

from meshray.config import DEFAULT
from meshray.core.demands import ACTOR_DEPTH, Wanted
from meshray.core.grants import Grant
from meshray.core.quantum import next_look, victims, wished_for
from meshray.wire.messages import Profile

LATE = DEFAULT.lease_quantum_s + 1


def wanted(job: str, number: int = 1, depth: int = 0, cpu: int = 1, grants: int = 0) -> Wanted:
    entry = Wanted((job.encode(), number), job.encode(), {"CPU": cpu * 10_000}, Profile(), depth, job, count=1000)
    entry.grants = set(range(grants))
    return entry


def grants_of(entry: Wanted, count: int) -> list[Grant]:
    entry.grants = set(range(count))
    return [Grant(number, entry, dict(entry.request), (), 0.0, b"w%d" % number) for number in range(count)]


def ids(waiting: list[Wanted], grants: list[Grant], now: float = LATE, cpu: int = 0) -> list[int]:
    return [grant.id for grant in victims(waiting, grants, {"CPU": cpu * 10_000}, now, DEFAULT)]


def test_one_slot_per_waiting_job() -> None:
    held = grants_of(wanted("a"), 4)
    assert len(ids([wanted("b"), wanted("b", 2), wanted("c")], held)) == 2


def test_nothing_is_revoked_while_something_comes_back_or_is_free() -> None:
    held = grants_of(wanted("a"), 4)
    held[0].revoked = True
    assert ids([wanted("b")], held) == []
    assert ids([wanted("b")], held[1:], cpu=1) == []


def test_nothing_is_revoked_in_vain() -> None:
    held = grants_of(wanted("a"), 2)
    assert len(ids([wanted("b", cpu=2)], held)) == 2
    assert ids([wanted("b", cpu=3)], held) == []
    assert len(ids([wanted("b", cpu=3), wanted("b", 2)], held)) == 1  # the next of the job gets its chance


def test_a_job_with_no_more_than_the_one_that_waits_is_left_alone() -> None:
    mine = wanted("b")
    assert ids([mine], grants_of(wanted("a"), 2) + grants_of(mine, 2)) == []


def test_a_blocked_one_has_nothing_to_give() -> None:
    held = grants_of(wanted("a"), 1)
    held[0].given_back = 10_000
    assert ids([wanted("b")], held) == []


def test_what_comes_first_in_its_job_waits_a_moment_only() -> None:
    held = grants_of(wanted("a"), 1)
    moment = DEFAULT.lease_yield_s
    assert ids([wanted("a", 2, depth=1)], held, now=moment) == [0]
    assert ids([wanted("a", 2, depth=ACTOR_DEPTH)], held, now=moment) == [0]
    assert ids([wanted("a", 2)], held, now=moment) == []
    assert ids([wanted("a", 2)], held, now=LATE) == [0]
    assert ids([wanted("a", 2)], grants_of(wanted("a", depth=1), 1), now=LATE) == []  # shallower


def test_the_next_look_is_when_a_lease_has_served() -> None:
    held = grants_of(wanted("a"), 1)
    assert next_look([wanted("b")], held, 0.0, DEFAULT) == DEFAULT.lease_quantum_s
    assert next_look([wanted("a", 2, depth=1)], held, 0.0, DEFAULT) == DEFAULT.lease_yield_s
    assert next_look([wanted("b")], held, LATE, DEFAULT) is None  # only an event can change it now
    assert next_look([held[0].wanted], held, 0.0, DEFAULT) is None


def test_who_holds_what_somebody_lacks_is_told_once() -> None:
    mine, held = wanted("b"), grants_of(wanted("a"), 3)
    held[0].revoked = True
    held[1].wished = True
    assert wished_for([mine], held, {"CPU": 0}) == [held[2]]
    held[2].worker = b""  # it has no worker yet, so nobody can use it
    assert wished_for([mine], held, {"CPU": 0}) == []


def test_nobody_is_told_what_helps_nobody() -> None:
    """What its own class waits for, what there is enough of, what holds nothing of it, actors."""
    entry = wanted("a")
    held = grants_of(entry, 2)
    assert wished_for([entry], held, {"CPU": 0}) == []
    assert wished_for([wanted("b")], held, {"CPU": 10_000}) == []
    disk = wanted("b")
    disk.request = {"disk": 10_000}
    assert wished_for([disk], held, {"CPU": 0}) == []
    actor = wanted("a", depth=ACTOR_DEPTH)
    actor.running_request = {}
    actors = grants_of(actor, 2)
    assert wished_for([wanted("b")], actors, {"CPU": 0}) == []
    assert wished_for([wanted("b"), entry], held, {"CPU": 0}) == held, "somebody else waits, too"


def test_a_job_has_its_share_of_each_resource() -> None:
    """Who computes on all CPUs would else never get a GPU from a job that has no more than that."""
    mine = wanted("b")
    cpus = grants_of(mine, 4)
    gpu = Wanted((b"b", 2), b"b", {"GPU": 10_000}, Profile(), 0, "b", count=1)
    held = Grant(9, Wanted((b"a", 1), b"a", {"GPU": 10_000}, Profile(), 0, "a", count=9, grants={9}), {"GPU": 10_000},
                 (0,), 0.0, b"w9")  # fmt: skip
    assert [grant.id for grant in victims([gpu], [*cpus, held], {}, LATE, DEFAULT)] == [9]
    assert next_look([gpu], [*cpus, held], 0.0, DEFAULT) == DEFAULT.lease_quantum_s
    theirs = Grant(10, Wanted((b"b", 3), b"b", {"GPU": 10_000}, Profile(), 0, "b", count=9, grants={10}),
                   {"GPU": 10_000}, (1,), 0.0, b"w10")  # fmt: skip
    two = Wanted((b"b", 4), b"b", {"GPU": 10_000}, Profile(), 1, "b", count=1)
    assert [grant.id for grant in victims([two], [*cpus, held, theirs], {}, LATE, DEFAULT)] == [10], (
        "its own: it is deeper"
    )
