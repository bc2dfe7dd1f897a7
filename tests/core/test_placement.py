"""On which hosts a class could run, and whom its submitter is told to ask."""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random
from typing import Any

import msgspec
import pytest

from meshray.config import DEFAULT
from meshray.core.demands import Wanted
from meshray.core.placement import Ask, Here, Member, Placement
from meshray.core.slots import Slots
from meshray.ids import peer_of
from meshray.resources import to_amounts
from meshray.strategy import ANYWHERE, LabelTest, Strategy
from meshray.wire.messages import Profile

HERE, B, C, D = b"here____", b"b_______", b"c_______", b"d_______"
MB = 1 << 20


class View:
    """What a peer with two CPUs sees."""

    def __init__(self, seed: int = 0, labels: dict[str, str] | None = None, guest: bool = False, **config: Any) -> None:
        self.slots = Slots(to_amounts({} if guest else {"CPU": 2}))
        self.config = msgspec.structs.replace(DEFAULT, **config)
        self.placement = Placement(Here(HERE, labels or {}, Random(seed), guest=guest), self.slots, self.config)
        self.now = 100.0

    def tell(self, node: bytes, cpus: float, used: float = 0.0, **more: Any) -> None:
        labels, compatible = more.pop("labels", {}), more.pop("compatible", True)
        guest = more.pop("guest", False)
        total = to_amounts({"CPU": cpus, **more})
        name, in_use = node.decode().strip("_"), to_amounts({"CPU": used})
        member = Member(node, name, total, in_use, labels, compatible=compatible, guest=guest)
        self.placement.on_member(member)
        self.placement.look_anew()

    def says(self, node: bytes, used: float = 0.0) -> None:
        """The peer there says itself how full it is."""
        self.placement.on_load(node, to_amounts({"CPU": used}) if used else {})
        self.placement.look_anew()

    def fill(self) -> None:
        """All slots of this host are taken."""
        self.slots.take(self.slots.total)

    def wants(
        self, count: int, strategy: Strategy = ANYWHERE, near: dict[bytes, int] | None = None, **request: float
    ) -> Wanted:
        amounts = to_amounts(request or {"CPU": 1})
        wanted = Wanted((HERE + b"submittr", 1), HERE + b"job_____", amounts, Profile(), 0, "f", count)
        wanted.strategy, wanted.near = strategy, near or {}
        wanted.never = self.slots.why_never(amounts) or self.placement.why_not_here(strategy, wanted.job)
        wanted.wait_anew(self.now)
        return wanted

    def asks(self, wanted: Wanted) -> dict[bytes, int]:
        """Whom its submitter is told to ask, for how many."""
        asks = self.placement.asks(wanted, self.now)
        assert all(isinstance(ask, Ask) for ask in asks)
        assert len({ask.node for ask in asks}) == len(asks), asks
        return {ask.node: ask.count for ask in asks}

    def may_grant(self, wanted: Wanted) -> bool:
        return self.placement.may_grant(wanted, self.now)


# -- room --------------------------------------------------------------------------------------------------------------


def test_all_that_waits_is_sent_where_there_is_room() -> None:
    view = View()
    view.tell(B, 4, used=1)
    view.tell(C, 2)
    view.tell(D, 2, used=2)
    assert view.asks(view.wants(5)) == {B: 3, C: 2}


def test_no_more_than_what_waits() -> None:
    view = View()
    view.tell(B, 4)
    assert view.asks(view.wants(2)) == {B: 2}


def test_what_was_promised_is_not_promised_again_before_the_next_load() -> None:
    view = View()
    view.tell(B, 2)
    assert view.asks(view.wants(1)) == {B: 1}
    assert view.asks(view.wants(1)) == {B: 1}
    third = view.wants(1)
    assert view.asks(third) == {B: 1}, "it queues there: nobody has room"
    assert third.ask_at > view.now
    view.tell(B, 2, used=1)
    assert view.asks(view.wants(1)) == {B: 1}
    view.says(B, used=1)
    assert view.asks(view.wants(3))[B] == 1


def test_a_promise_is_forgotten_when_nobody_tells_of_it() -> None:
    """What came and went between two loads changes none, so that host would be held for full for ever."""
    view = View()
    view.tell(B, 1)
    assert view.asks(view.wants(1)) == {B: 1}
    assert view.placement.members[B].room(to_amounts({"CPU": 1})) == 0
    view.now += view.config.promise_s - 0.1
    wanted = view.wants(1)
    view.asks(wanted)  # it queues there: one more promise
    view.now += 0.2
    view.placement.forget_promises(view.now)
    assert view.placement.members[B].room(to_amounts({"CPU": 1})) == 0, "the last one counts"
    view.now += view.config.promise_s
    view.placement.forget_promises(view.now)
    assert view.asks(wanted) == {B: 1}
    assert view.placement.members[B].queued == 0


def test_promises_of_hosts_that_are_gone_are_forgotten_with_them() -> None:
    view = View()
    view.tell(B, 1)
    view.tell(C, 1)
    view.asks(view.wants(2))
    view.placement.on_gone(B, "dead")
    view.now += view.config.promise_s
    view.placement.forget_promises(view.now)
    assert view.placement.members[C].room(to_amounts({"CPU": 1})) == 1


def test_a_burst_goes_to_all_not_to_one() -> None:
    view = View()
    nodes = [b"n%07d" % number for number in range(10)]
    for node in nodes:
        view.tell(node, 4)
    counts: Counter[bytes] = Counter()
    for _ in range(40):
        counts.update(view.asks(view.wants(1)))
    assert sum(counts.values()) == 40
    assert max(counts.values()) <= 4
    assert len(counts) == 10


def test_a_peer_that_has_room_and_gives_nothing_is_not_asked_again_and_again() -> None:
    """It keeps it for a large request: seed 350 of the simulation never came to an end."""
    view = View()
    view.tell(B, 4)
    wanted = view.wants(2)
    assert view.asks(wanted) == {B: 2}
    view.says(B)
    assert view.asks(wanted) == {}
    view.now = view.placement.next_look(wanted)
    assert view.asks(wanted) == {B: 2}
    view.says(B)
    wanted.count = 4
    wanted.look_anew()
    assert view.asks(wanted) == {B: 4}, "it wants more than it did"


def test_of_two_the_less_loaded() -> None:
    view = View()
    view.tell(B, 10, used=9)
    view.tell(C, 10, used=1)
    assert all(view.asks(view.wants(1)) == {C: 1} for _ in range(5))


def test_random_ones_among_many() -> None:
    """The least loaded of all would be everybody's choice."""
    chosen: Counter[bytes] = Counter()
    for seed in range(60):
        view = View(seed)
        for number in range(6):
            view.tell(b"n%07d" % number, 10, used=number)
        chosen.update(view.asks(view.wants(1)))
    assert len(chosen) == 5, "the most loaded is never the better of two"
    assert chosen[b"n0000000"] > chosen[b"n0000003"]


def test_whoever_runs_another_python_gets_nothing() -> None:
    view = View()
    view.tell(B, 8, compatible=False)
    wanted = view.wants(4)
    assert view.asks(wanted) == {}
    assert not view.placement.somebody_could(wanted)


def test_resources_that_only_some_have() -> None:
    view = View()
    view.tell(B, 8)
    view.tell(C, 2, disk=1)
    wanted = view.wants(3, CPU=1, disk=0.5)
    assert view.placement.somebody_could(wanted)
    assert view.asks(wanted) == {C: 2}


def test_who_needs_nothing_is_sent_anywhere() -> None:
    view = View()
    view.tell(B, 1, used=1)
    wanted = view.wants(3)
    wanted.request.clear()
    assert view.asks(wanted) == {B: 3}


def test_a_load_is_looked_at_when_it_shall_be_and_a_new_member_at_once() -> None:
    view = View()
    member = Member(B, "b", to_amounts({"CPU": 2}), to_amounts({"CPU": 2}), {})
    assert view.placement.on_member(member)
    wanted = view.wants(2)
    assert view.asks(wanted) == {B: 2}, "it queues there"
    view.now += view.config.ask_again_s / 2
    wanted.forget_asked(B)
    view.asks(wanted)
    assert not view.placement.on_member(Member(B, "b", to_amounts({"CPU": 2}), {}, {}))
    assert view.asks(wanted) == {}
    view.placement.look_anew()
    assert view.asks(wanted) == {B: 2}
    for changed in ({"labels": {"zone": "a"}}, {"compatible": False}, {"total": to_amounts({"CPU": 3})}):
        fields: dict[str, Any] = {"total": to_amounts({"CPU": 2}), "labels": {}, **changed}
        other = Member(B, "b", fields["total"], {}, fields["labels"], compatible=fields.get("compatible", True))
        assert view.placement.on_member(other), changed


def test_gone_is_gone() -> None:
    view = View()
    view.tell(B, 4)
    view.placement.on_gone(B, "dead")
    view.says(B)
    assert view.asks(view.wants(2)) == {}
    assert [(member.node, why) for member, why in view.placement.gone.values()] == [(B, "dead")]
    view.tell(B, 4)
    assert not view.placement.gone


# -- queues ------------------------------------------------------------------------------------------------------------


def test_it_queues_at_one_more_busy_peer_from_time_to_time() -> None:
    view = View(ask_busy_max=3)
    for number in range(5):
        view.tell(b"n%07d" % number, 2, used=2)
    wanted = view.wants(10)
    first = view.asks(wanted)
    assert list(first.values()) == [2], "all that it could ever give"
    assert view.asks(wanted) == {}
    asked = dict(first)
    for _ in range(6):
        view.now = view.placement.next_look(wanted)
        asked.update(view.asks(wanted))
    assert len(asked) == 3


def test_a_peer_that_gives_nothing_is_asked_again_after_a_while() -> None:
    view = View()
    view.tell(B, 2, used=2)
    wanted = view.wants(1)
    times = []
    for _ in range(30):
        if view.asks(wanted):
            times.append(view.now)
        view.now = view.placement.next_look(wanted)
    assert len(times) > 1
    assert min(b - a for a, b in itertools.pairwise(times)) >= view.config.ask_renew_s


def test_a_host_that_was_cut_off_is_asked_anew() -> None:
    view = View()
    view.tell(B, 2, used=2)
    wanted = view.wants(1)
    assert view.asks(wanted) == {B: 1}
    wanted.forget_asked(B)
    view.now = view.placement.next_look(wanted)
    assert view.asks(wanted) == {B: 1}


# -- hops --------------------------------------------------------------------------------------------------------------


def test_a_peer_that_was_asked_names_others_with_room_but_never_the_way_back() -> None:
    view = View()
    view.tell(B, 4)
    view.tell(C, 2)
    view.tell(D, 2, used=2)
    wanted = view.wants(5)
    wanted.key, wanted.hops = (B + b"submittr", 1), 1
    assert view.asks(wanted) == {C: 2}
    assert view.may_grant(wanted)
    view.now += 100
    assert view.asks(wanted) == {}, "only the submitter's own peer lets it queue elsewhere"


def test_at_most_three_hops() -> None:
    view = View()
    view.tell(C, 2)
    wanted = view.wants(1)
    wanted.key, wanted.hops = (B + b"submittr", 1), view.config.hops_max
    assert view.asks(wanted) == {}


# -- locality ----------------------------------------------------------------------------------------------------------


def test_where_most_bytes_of_its_arguments_lie_is_asked_first_and_alone() -> None:
    view = View()
    view.tell(B, 4, used=4)
    view.tell(C, 4)
    wanted = view.wants(3, near={B: 100 * MB, HERE: 20 * MB})
    assert not view.may_grant(wanted), "free slots here wait as long as fetching would take"
    assert view.asks(wanted) == {B: 3}
    view.now = view.placement.next_look(wanted)
    held_s = view.now - wanted.since
    assert 0 < held_s <= 80 * MB / view.config.locality_bytes_per_s
    while view.now < wanted.since + 80 * MB / view.config.locality_bytes_per_s:
        view.asks(wanted)
        view.now = view.placement.next_look(wanted)
    view.now += view.config.ask_again_s
    assert view.may_grant(wanted)
    assert C in view.asks(wanted)


def test_what_lies_here_stays_here_for_as_long() -> None:
    view = View()
    view.fill()
    view.tell(B, 4)
    wanted = view.wants(3, near={HERE: 20 * MB})
    assert view.may_grant(wanted)
    assert view.asks(wanted) == {}
    view.now = view.placement.next_look(wanted)
    assert view.now == wanted.since + 20 * MB / view.config.locality_bytes_per_s
    assert view.asks(wanted) == {B: 3}


@pytest.mark.parametrize("near", [{B: MB // 2}, {B: 10 * MB, C: 10 * MB, HERE: 10 * MB}, {b"gone____": 100 * MB}])
def test_what_makes_no_difference_is_no_reason(near: dict[bytes, int]) -> None:
    view = View()
    view.tell(B, 4)
    view.tell(C, 4)
    wanted = view.wants(1, near=near)
    assert view.may_grant(wanted)


def test_no_locality_where_it_could_never_run() -> None:
    view = View()
    view.tell(B, 1)
    view.tell(C, 4)
    wanted = view.wants(1, near={B: 100 * MB}, CPU=2)
    assert view.may_grant(wanted)
    assert view.asks(wanted) == {C: 1}


# -- strategies --------------------------------------------------------------------------------------------------------


def test_spread_takes_turns() -> None:
    view = View()
    view.tell(B, 4)
    view.tell(C, 4)
    wanted = view.wants(6, Strategy(spread=True))
    here = 0
    while view.may_grant(wanted):
        here += 1
        view.placement.on_granted(wanted)
    assert here == 2
    assert view.asks(wanted) == {B: 2, C: 2}


def test_spread_takes_turns_between_demands() -> None:
    view = View()
    view.tell(B, 4)
    view.tell(C, 4)
    where = []
    for _ in range(6):
        wanted = view.wants(1, Strategy(spread=True))
        where.append(HERE if view.may_grant(wanted) else next(iter(view.asks(wanted))))
    assert where[:3] == where[3:]
    assert set(where) == {HERE, B, C}


def actors(view: View, count: int, keeps: float) -> Counter[bytes | None]:
    """Where so many actors of SPREAD are sent, each of which takes a CPU to start."""
    where: Counter[bytes | None] = Counter()
    for _ in range(count):
        wanted = view.wants(1, Strategy(spread=True))
        wanted.running_request = to_amounts({"CPU": keeps}) if keeps else {}
        where[view.placement.actor_host(wanted, b"", (), view.now)] += 1
    return where


def test_spread_of_actors_that_keep_nothing_takes_turns_however_many_there_are() -> None:
    """No load tells that a place to start in is free again."""
    view = View()
    view.tell(B, 1)
    view.tell(C, 2)
    assert actors(view, 30, keeps=0) == {HERE: 10, B: 10, C: 10}


def test_spread_of_actors_that_keep_a_cpu_passes_by_who_has_none_left() -> None:
    view = View()
    view.tell(B, 1)
    view.tell(C, 8)
    view.fill()
    assert actors(view, 6, keeps=1) == {B: 1, C: 5}


def test_turns_of_actors_go_on_in_order_though_not_all_have_room_all_the_time() -> None:
    view = View()
    view.tell(B, 4)
    view.tell(C, 4)
    for _ in range(3):
        assert actors(view, 3, keeps=0) == {HERE: 1, B: 1, C: 1}
        view.slots.take(view.slots.total)  # while those start that were sent here
        assert actors(view, 1, keeps=0).keys() <= {B, C}
        view.slots.give(view.slots.total)


def test_turns_that_are_not_taken_are_dealt_again_to_those_with_room() -> None:
    view = View()
    view.tell(B, 4, used=4)
    view.tell(C, 4)
    wanted = view.wants(3, Strategy(spread=True))
    assert view.may_grant(wanted)
    assert view.asks(wanted) == {B: 1, C: 1}
    view.placement.on_granted(wanted)
    wanted.grants.add(1)
    assert not view.may_grant(wanted)
    view.now = view.placement.next_look(wanted)
    assert B not in view.asks(wanted)


def test_turns_that_are_dealt_again_are_told() -> None:
    """`may_grant` comes first and deals; nobody was told of it, and if only others had room, nothing ran any more."""
    view = View()
    view.fill()
    view.tell(B, 4)
    wanted = view.wants(2, Strategy(spread=True))
    view.may_grant(wanted)
    assert view.asks(wanted) == {B: 1}
    for _ in range(3):
        view.now = view.placement.next_look(wanted)
        assert not view.may_grant(wanted)
        assert view.asks(wanted) == {B: 2}, "it has room, and this host has none"
        assert view.asks(wanted) == {}, "told once"
        view.says(B)


def test_affinity_to_this_node_or_another() -> None:
    view = View()
    view.tell(B, 4)
    view.tell(C, 4)
    there = view.wants(2, Strategy(node=B))
    assert there.never
    assert view.asks(there) == {B: 2}
    here = view.wants(2, Strategy(node=HERE))
    assert not here.never
    assert view.may_grant(here)
    assert view.asks(here) == {}
    assert not view.placement.is_hopeless(here)


def test_hard_affinity_to_a_node_that_is_not_there_is_hopeless() -> None:
    view = View()
    view.tell(C, 4)
    wanted = view.wants(1, Strategy(node=B))
    assert view.placement.is_hopeless(wanted)
    assert not view.placement.somebody_could(wanted)
    told = view.placement.why_nobody(wanted)
    assert told == f"it asks for {{CPU: 1}} on node {B.hex()}, and there is no such node (any more)"
    view.tell(B, 4)
    view.placement.on_gone(B, "it has left")
    assert view.placement.why_nobody(wanted).endswith("there is no such node any more: it was b (it has left)")
    view.tell(B, 4)
    assert not view.placement.is_hopeless(wanted)
    too_much = view.wants(1, Strategy(node=B), CPU=8)
    assert view.placement.is_hopeless(too_much)
    assert "{CPU: 4} on b" in view.placement.why_nobody(too_much)


def test_hard_affinity_to_a_node_that_is_only_out_of_reach_waits_for_it() -> None:
    """It lives, and others reach it. It dies, or the way to it is mended."""
    view = View()
    view.tell(B, 4)
    view.placement.on_gone(B, "no answer within 30 s", out_of_reach=True)
    wanted = view.wants(1, Strategy(node=B))
    assert not view.placement.is_hopeless(wanted)
    assert not view.placement.somebody_could(wanted)
    told = view.placement.why_nobody(wanted)
    assert told.endswith("the host b cannot be reached from here: no answer within 30 s")
    assert view.placement.is_hopeless(view.wants(1, Strategy(node=B), CPU=8)), "it never could"
    view.placement.on_gone(B, "dead")
    assert view.placement.is_hopeless(wanted)
    view.tell(B, 4)
    view.placement.on_gone(B, "no answer", out_of_reach=True)
    view.tell(B, 4)
    assert not view.placement.out_of_reach
    assert view.asks(wanted) == {B: 1}


def test_soft_affinity_and_a_node_that_is_out_of_reach() -> None:
    view = View()
    view.tell(B, 4)
    view.placement.on_gone(B, "no answer", out_of_reach=True)
    wanted = view.wants(1, Strategy(node=B, soft=True))
    assert view.may_grant(wanted)
    assert not view.placement.waits_for_reach(wanted)


def test_soft_affinity_goes_elsewhere_only_if_the_node_is_gone_or_could_never() -> None:
    view = View()
    view.tell(B, 4, used=4)
    view.tell(C, 4)
    wanted = view.wants(2, Strategy(node=B, soft=True))
    assert not view.may_grant(wanted)
    assert view.asks(wanted) == {B: 2}
    view.placement.on_gone(B, "dead")
    assert view.may_grant(wanted)
    assert view.asks(wanted) == {C: 2}
    assert view.may_grant(view.wants(1, Strategy(node=C, soft=True), CPU=2)) is False
    view.tell(C, 1)
    assert view.may_grant(view.wants(1, Strategy(node=C, soft=True), CPU=2))


def test_labels() -> None:
    view = View(labels={"zone": "a"})
    view.tell(B, 4, labels={"zone": "b"})
    view.tell(C, 4)
    in_b = view.wants(2, Strategy(hard=(LabelTest("zone", ("b",)),)))
    assert "zone=b" in in_b.never
    assert view.asks(in_b) == {B: 2}
    not_a = view.wants(8, Strategy(hard=(LabelTest("zone", ("a",), True),)))
    assert view.asks(not_a) == {B: 2, C: 4}
    in_a = view.wants(2, Strategy(hard=(LabelTest("zone", ("a",)),)))
    assert view.may_grant(in_a)
    assert view.asks(in_a) == {}


def test_wished_labels_first_where_there_is_room() -> None:
    view = View()
    view.tell(B, 2, labels={"fast": "yes"})
    view.tell(C, 4)
    wanted = view.wants(4, Strategy(wished=(LabelTest("fast"),)))
    assert not view.may_grant(wanted), "there is a better one"
    assert view.asks(wanted) == {B: 2, C: 2}
    assert not view.may_grant(wanted), "which was asked just now"
    view.now += view.config.ask_again_s
    assert view.may_grant(wanted), "it has no room any more"


# -- for people --------------------------------------------------------------------------------------------------------


def test_hosts_are_called_by_their_names_where_these_are_known() -> None:
    view = View()
    view.tell(B, 1)
    assert view.placement.called(B) == f"host b (node {B.hex()})"
    view.placement.on_gone(B, "dead")
    assert view.placement.called(B) == f"host b (node {B.hex()})"
    assert view.placement.called(C) == f"node {C.hex()}"


# -- guests ------------------------------------------------------------------------------------------------------------


def test_a_guest_runs_nothing_of_others_though_it_asks_for_nothing() -> None:
    view = View()
    view.tell(B, 0, guest=True)
    view.tell(C, 4)
    spread = view.wants(4, Strategy(spread=True))
    spread.request.clear()
    assert view.asks(spread) == {C: 2}
    assert spread.turns == 2
    assert view.asks(view.wants(100, CPU=0)).keys() == {C}
    for strategy in (ANYWHERE, Strategy(spread=True)):
        hosts = {view.placement.actor_host(view.wants(1, strategy, CPU=0), b"", (), view.now) for _ in range(8)}
        assert B not in hosts
    wanted = view.wants(1, Strategy(node=B), CPU=0)
    assert view.placement.is_hopeless(wanted)
    assert view.placement.why_nobody(wanted) == (
        f"it asks for {{}} on node {B.hex()}, there is {{}} on b, a guest, which runs only what its own program sends "
        "there by its node id"
    )
    assert view.asks(view.wants(1, Strategy(node=B, soft=True), CPU=0)) == {C: 1}


def test_a_guest_runs_what_its_own_program_sends_there() -> None:
    """Which may be done by a worker of it elsewhere."""
    view = View()
    view.tell(B, 0, guest=True)
    wanted = view.wants(1, Strategy(node=B), CPU=0)
    wanted.job = B + b"job_____"
    assert view.asks(wanted) == {B: 1}
    assert view.placement.actor_host(wanted, b"", (), view.now) == B


def test_at_a_guest() -> None:
    view = View(guest=True)
    view.tell(C, 4)
    assert "guest" in view.placement.why_not_here(ANYWHERE, HERE + b"job_____")
    assert not view.placement.why_not_here(Strategy(node=HERE), HERE + b"job_____")
    assert not view.placement.why_not_here(ANYWHERE, HERE + b"job_____", sent=True)
    assert "guest" in view.placement.why_not_here(ANYWHERE, C + b"job_____", sent=True)
    assert view.asks(view.wants(2, CPU=0)) == {C: 2}
    assert view.asks(view.wants(2, Strategy(spread=True), CPU=0)) == {C: 2}
    assert not view.may_grant(view.wants(2, Strategy(spread=True), CPU=0))
    assert view.placement.actor_host(view.wants(1, CPU=0), b"", (), view.now) == C
    view.placement.on_gone(C, "left")
    view.tell(B, 0, guest=True)
    wanted = view.wants(1, CPU=1)
    assert not view.placement.somebody_could(wanted)
    assert view.placement.why_nobody(wanted) == (
        "it asks for {CPU: 1}, there is no host but guests, which lend nothing"
    )


def test_a_guest_keeps_nothing_for_others() -> None:
    view = View()
    view.tell(B, 0, guest=True)
    assert view.placement.heir(b"actor___", ()) is None
    assert view.placement.keeper(()) is None
    view.tell(C, 0)
    assert view.placement.heir(b"actor___", ()) == C
    assert view.placement.heir(b"actor___", {C}) == C, "rather than nobody"
    assert view.placement.keeper(()) == peer_of(C)


# -- what nobody can do ------------------------------------------------------------------------------------------------


def test_what_nobody_has_is_told_with_what_there_is() -> None:
    view = View(labels={"zone": "a"})
    alone = view.wants(1, disk=1)
    assert view.placement.why_nobody(alone) == "it asks for {disk: 1}, there is {disk: 0}"
    view.tell(B, 4, disk=0.5, labels={"zone": "b"})
    view.tell(C, 4, compatible=False, disk=5)
    wanted = view.wants(1, Strategy(hard=(LabelTest("zone", ("b",)),)), disk=1)
    assert not view.placement.somebody_could(wanted)
    assert view.placement.why_nobody(wanted) == (
        "it asks for {disk: 1} on zone=b, there is {disk: 0} (zone=a) on this host, {disk: 0.5} (zone=b) on b, "
        "{disk: 5}, another Python, on c"
    )
    view.tell(D, 4, disk=1, labels={"zone": "b"})
    assert view.placement.somebody_could(wanted)


def test_a_host_that_was_asked_for_and_is_being_stopped_is_said_to_be() -> None:
    view = View()
    view.tell(B, 4)
    view.tell(C, 4)
    wanted = view.wants(1, Strategy(node=B))
    view.placement.on_leaves(B)
    assert view.placement.is_hopeless(wanted)
    assert view.placement.why_nobody(wanted) == (
        f"it asks for {{CPU: 1}} on node {B.hex()}, there is {{CPU: 4}} on b, which is being stopped"
    )
    here = view.wants(1, Strategy(node=HERE))
    view.placement.on_leaves(HERE)
    assert view.placement.why_nobody(here).endswith("{CPU: 2} on this host, which is being stopped")


def test_of_many_hosts_some_are_named() -> None:
    view = View()
    for number in range(20):
        view.tell(b"n%07d" % number, 4, disk=number / 100)
    text = view.placement.why_nobody(view.wants(1, disk=1))
    assert text.endswith("and 16 more with at most {disk: 0.19}")
    assert len(text) < 400


def test_nobody_asks_itself() -> None:
    view = View()
    with pytest.raises(AssertionError):
        view.tell(HERE, 4)
    assert peer_of(HERE + b"anything") == peer_of(HERE)
