"""`meshray status` as people read it."""

from __future__ import annotations

from typing import Any

import pytest

from meshray.cli.members import BROKEN_OFF, RECENT_S, describe_mesh
from meshray.cli.showing import describe, duration, number, size
from meshray.transport import mesh_port


@pytest.fixture
def status() -> dict[str, Any]:
    return {
        "name": "desk",
        "pid": 7,
        "private": False,
        "uptime_s": 3725.0,
        "leaving": "",
        "version": "0.1.0",
        "python": "3.11",
        "resources": {
            "total": {"memory": 2048.0, "disk": 2.0, "CPU": 4.0, "object_store_memory": 1.0},
            "available": {"memory": 1024.0, "disk": 2.0, "CPU": 2.5, "object_store_memory": 1.0},
        },
        "store": {"sealed_bytes": 1536, "objects": 2, "capacity_bytes": 3 << 30},
        "workers": {"leased": 1, "idle": 2},
        "actors": {"counts": {}},
        "drivers": [{"name": "main.py", "pid": 9}, {"name": "", "pid": 10}],
        "waiting": [
            {
                "count": 3,
                "name": "f",
                "request": {"GPU": 1.0},
                "reason": "there is no GPU",
                "host": "",
                "is_actor": False,
            },
            {"count": 2, "name": "g", "request": {"CPU": 1.0}, "reason": "", "host": "alpha", "is_actor": False},
            {"count": 1, "name": "C", "request": {}, "reason": "", "host": "al\rpha", "is_actor": True},
        ],
    }


def test_a_peer(status: dict[str, Any]) -> None:
    assert describe(status).splitlines() == [
        "Peer 'desk' (pid 7, up 1 h 2 min), meshray 0.1.0, Python 3.11",
        "  CPU        1.5 of 4 in use",
        "  disk       0 of 2 in use",
        "  memory     1.0 KiB of 2.0 KiB in use",
        "  objects    1.5 KiB in 2 objects, of 3.0 GiB",
        "  workers    2 idle, 1 leased",
        "  actors     none",
        "  programs   main.py (pid 9)",
        "             python without a script (pid 10)",
        "  waiting    3 x f {GPU: 1} - there is no GPU",
        "             2 x g {CPU: 1}, and waits on alpha",
        "             1 x C {} of al?pha",
    ]


def test_a_long_list_is_cut(status: dict[str, Any]) -> None:
    status["drivers"] = [{"name": f"{n}.py", "pid": n} for n in range(30)]
    assert "and 20 more" in describe(status)


def test_a_peer_that_does_not_answer() -> None:
    assert describe({"error": "the peer 'desk' does not answer"}) == "Trouble: the peer 'desk' does not answer"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (200_000, "2 d 7 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_and_numbers() -> None:
    assert [size(count) for count in (0, 1023, 1024, 5 << 20, 1 << 42)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 MiB", "4.0 TiB",
    ]  # fmt: skip
    assert [number(value) for value in (0.1 + 0.2, 2.0)] == ["0.3", "2"]


def member(name: str, state: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name, "home": name * 16, "node_id": "1" * 16, "is_self": False, "state": state, "since_s": 61.0,
        "reachable": True, "round_trip_s": 0.0012, "addresses": ["10.0.0.1:7637"], "python": "3.11",
        "incompatible": False, "version": "0.1.0",
        "total": {"disk": 1.0, "memory": 2048.0, "CPU": 4.0, "object_store_memory": 5.0},
        "used": {"CPU": 1.5}, "reason": "", "leaving": False, "guest": False, "store_used_bytes": 0,
        "store_total_bytes": 0,
    } | changes  # fmt: skip


def mesh(*members: dict[str, Any], **changes: Any) -> list[str]:
    told = {
        "mesh_id": "00ff", "listens": ["10.0.0.1:7637"], "members": list(members), "discovery_trouble": "",
        "refused": {}, "refused_there": {}, "refused_ago_s": {}, "refused_there_ago_s": {}, "no_link": {},
        "dropped_records": {}, "other_key": 0, "next_key_id": "",
    }  # fmt: skip
    return describe_mesh(
        told | changes, duration, lambda name, amount: size(amount) if name in ("memory", "store") else number(amount)
    )


def test_a_change_of_keys_is_told() -> None:
    assert any("ab12 is staged here" in line for line in mesh(next_key_id="ab12"))


def test_what_members_say_of_themselves_moves_no_cursor() -> None:
    lines = mesh(member("a", "dead", reason="gone\x1b[2J\nMesh 0000"), member("b\x07", "alive", version="1\r"))
    assert len(lines) == 3
    assert all(character.isprintable() for line in lines for character in line)
    told = mesh(refused_there={"\x1b[2J": 1}, refused_there_ago_s={"\x1b[2J": 61.0})
    assert told[-1] == "  refused there: 1 ?[2J (last 1 min 1 s ago)"


def test_what_was_refused_long_ago_is_not_told_nor_that_somebody_came_to_look() -> None:
    assert BROKEN_OFF == mesh_port.BROKEN_OFF
    counts = {"unknown key": 3, "no key": 4, BROKEN_OFF: 5}
    ago_s = {"unknown key": 2.0, "no key": RECENT_S + 1, BROKEN_OFF: 1.0}
    assert mesh(refused=counts, refused_ago_s=ago_s)[-1] == "  refused here: 3 unknown key (last 2 s ago)"
    assert mesh(refused=counts, refused_ago_s=dict.fromkeys(counts, RECENT_S + 1)) == mesh()
    assert mesh(refused={BROKEN_OFF: 1}, refused_ago_s={BROKEN_OFF: 0.0}) == mesh()


def test_a_mesh() -> None:
    assert mesh(
        member("a", "alive", is_self=True, round_trip_s=None),
        member("b", "alive", incompatible=True, python="3.12"),
        member("c", "suspect", reachable=False, total={}, used={}, version=""),
        member("d", "alive", round_trip_s=None),
        member("e", "dead", home="", reason="no answer", total={}, used={}, version=""),
        member("f", "left", home="", reason="left", total={}, used={}, version="", python=""),
        refused={"unknown key": 3},
        refused_ago_s={"unknown key": 9.0},
    ) == [
        "Mesh 00ff: 4 members; this one listens at 10.0.0.1:7637",
        "  a  aaaaaaaaaaaaaaaa  alive 1 min 1 s    this one       CPU 1.5/4, memory 0 B/2.0 KiB, disk 0/1  0.1.0  "
        "Python 3.11",
        "  b  bbbbbbbbbbbbbbbb  alive 1 min 1 s    1.2 ms         CPU 1.5/4, memory 0 B/2.0 KiB, disk 0/1  0.1.0  "
        "Python 3.12 (another version: gets no closures)",
        "  c  cccccccccccccccc  suspect 1 min 1 s  not reachable                                                  "
        "Python 3.11",
        "  d  dddddddddddddddd  alive 1 min 1 s    ?              CPU 1.5/4, memory 0 B/2.0 KiB, disk 0/1  0.1.0  "
        "Python 3.11",
        "  e                    dead 1 min 1 s                    no answer                                       "
        "Python 3.11",
        "  f                    left 1 min 1 s",
        "  refused here: 3 unknown key (last 9 s ago)",
    ]


def test_with_whom_there_is_no_link_and_why() -> None:
    lines = mesh(no_link={f"10.0.0.{number}:1": "no answer\x07 yet" for number in range(7)})
    assert lines[1:] == [
        *(f"  no link with 10.0.0.{number}:1: no answer? yet" for number in range(5)),
        "  and none with 2 more",
    ]


def test_a_member_that_leaves_and_what_lies_in_stores() -> None:
    (line,) = mesh(
        member("a", "alive", leaving=True, total={"CPU": 4.0}, store_used_bytes=512, store_total_bytes=2048)
    )[1:]
    assert line.split("  ") == [
        "",
        "a",
        "a" * 16,
        "leaves 1 min 1 s",
        "1.2 ms",
        "CPU 1.5/4, store 512 B/2.0 KiB",
        "0.1.0",
        "Python 3.11",
    ]


def test_one_that_was_gone_before_this_peer_came_is_a_riddle() -> None:
    told = mesh(member("a", "alive"), member("1" * 16, "left", home=""), member("b", "dead", home=""))
    assert [line.split()[0] for line in told[1:]] == ["a", "b"]


def test_one_object_is_one(status: dict[str, Any]) -> None:
    status["store"]["objects"] = 1
    assert "1.5 KiB in 1 object, of" in describe(status)


def test_a_guest() -> None:
    (line,) = mesh(member("a", "alive", guest=True, total={}, store_used_bytes=512, store_total_bytes=2048))[1:]
    assert line.split("  ")[5] == "guest, store 512 B/2.0 KiB"


def test_a_large_mesh_is_cut() -> None:
    told = mesh(*(member("a", "alive") for _ in range(150)), *(member("b", "dead") for _ in range(50)))
    assert len(told) == 1 + 100 + 5 + 1
    assert told[-1] == "  and 95 more"


def test_a_mesh_from_which_the_host_is_cut_off() -> None:
    assert mesh(listens=[], discovery_trouble="mDNS cannot be used: port taken") == [
        "Mesh 00ff: 0 members; this one listens at no address: it is cut off",
        "  discovery: mDNS cannot be used: port taken",
    ]
