"""What a peer answers about itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from meshray.local import PeerRecord
from meshray.peer import status
from meshray.peer.status import ActorView, OtherView, ProcessView, StoreView, WaitingView
from meshray.wire.messages import Ask

NODE = b"12345678"
JOB = NODE + b"j" * 8
RAY_KEYS = {"NodeID", "Alive", "NodeManagerAddress", "NodeManagerHostname", "NodeName", "Resources", "Labels"}


@pytest.fixture
def view() -> Any:
    return SimpleNamespace(
        record=PeerRecord(node=NODE.hex(), pid=7, name="host", private=False, ready=True, folder="/run/x"),
        labels={"zone": "a"},
        total={"CPU": 40_000, "memory": 10_000},
        available={"CPU": 15_000, "memory": 10_000},
        uptime_s=1.5,
        leaving="",
        drain=lambda: None,
        processes=lambda: [
            ProcessView(JOB, 10, "driver", JOB, name="main.py"),
            ProcessView(NODE + b"w" * 8, 11, "worker", JOB, "leased", "f"),
            ProcessView(NODE + b"v" * 8, 12, "worker", b"", "idle"),
        ],
        actors=lambda: [
            ActorView(JOB + b"\0" * 8, "counter", "space", "alive", 13, 0, JOB, True),
            ActorView(JOB + b"\1" * 8, "", "space", "pending", 0, 0, JOB, False),
        ],
        named=lambda: [("space", "counter")],
        waiting=lambda: [WaitingView("f", {"GPU": 10_000}, 3, "there is no GPU")],
        store=lambda: StoreView(1000, 100, 50, 25, 2, "/dev/shm/x"),
        mesh=lambda: None,
        others=list,
        counters=lambda: {"refused": 0},
    )


def ask(view: Any, what: str, argument: str = "") -> Any:
    answer = status.answer(view, Ask(5, what, argument))
    assert answer.request == 5
    assert answer.failure is None
    return msgspec.msgpack.decode(answer.data)


def test_what_a_peer_that_is_stopped_waits_for(view: Any) -> None:
    assert ask(view, "drain") == {}
    view.drain = lambda: {"phase": "works", "tasks": 2}
    assert ask(view, "drain") == {"phase": "works", "tasks": 2}


def test_nodes_have_the_keys_that_programs_read(view: Any) -> None:
    (node,) = ask(view, "nodes")
    assert node.keys() >= RAY_KEYS
    assert node["NodeID"] == NODE.hex()
    assert node["Resources"] == {"CPU": 4.0, "memory": 1.0}
    assert node["Labels"] == {"zone": "a"}


def test_a_member_may_say_anything_of_where_it_listens(view: Any) -> None:
    said = ["", "nowhere", "a:b", ":", "[::1]:99999", "a:-1", "a:¹"]
    view.mesh = lambda: {"listens": []}
    view.others = lambda: [OtherView(b"12345678", "b", address, True, {}, {}, {}) for address in said]
    here, *others = ask(view, "nodes")
    assert [(each["NodeManagerAddress"], each["NodeManagerPort"]) for each in others] == [(word, 0) for word in said]
    assert here["NodeManagerAddress"] == "127.0.0.1"


def test_nodes_and_resources_are_those_of_the_mesh(view: Any) -> None:
    view.mesh = lambda: {"listens": ["10.0.0.1:7637"]}
    view.others = lambda: [
        OtherView(b"dead____", "c", "10.0.0.3:7637", False, {"CPU": 80_000}, {}, {}, "no answer"),
        OtherView(b"left____", "d", "10.0.0.4:7637", False, {"CPU": 80_000}, {}, {}, "left"),
        OtherView(
            b"other___", "b", "[fd00::2]:7637", True, {"CPU": 20_000, "disk": 10_000}, {"CPU": 25_000}, {"z": "b"}
        ),
    ]
    here, b, c, d = ask(view, "nodes")
    assert (here["NodeManagerAddress"], here["NodeManagerPort"]) == ("10.0.0.1", 7637)
    assert all(node.keys() == here.keys() for node in (b, c, d))
    assert (b["NodeID"], b["NodeName"], b["Alive"], b["alive"]) == (b"other___".hex(), "b", True, True)
    assert (b["NodeManagerAddress"], b["NodeManagerPort"]) == ("fd00::2", 7637)
    assert b["Resources"] == {"CPU": 2.0, "disk": 1.0}
    assert b["Labels"] == {"z": "b"}
    assert (c["Alive"], c["DeathReason"], c["DeathReasonMessage"], c["Resources"]) == (False, 2, "no answer", {})
    assert (d["Alive"], d["DeathReason"]) == (False, 1)
    assert ask(view, "resources") == {  # woken tasks may use more than there is; the dead have nothing
        "total": {"CPU": 6.0, "memory": 1.0, "disk": 1.0},
        "available": {"CPU": 1.5, "memory": 1.0, "disk": 1.0},
    }


def test_resources_are_quantities(view: Any) -> None:
    assert ask(view, "resources") == {
        "total": {"CPU": 4.0, "memory": 1.0},
        "available": {"CPU": 1.5, "memory": 1.0},
    }


def test_named_actors_by_namespace(view: Any) -> None:
    assert ask(view, "named_actors") == [{"name": "counter", "namespace": "space"}]
    assert ask(view, "named_actors", "other") == []


def test_status_counts_and_lists(view: Any) -> None:
    told = ask(view, "status")
    assert told["workers"] == {"leased": 1, "idle": 1}
    assert told["drivers"] == [{"job_id": JOB.hex(), "pid": 10, "name": "main.py"}]
    assert told["actors"]["counts"] == {"alive": 1, "pending": 1}
    assert told["waiting"] == [
        {"name": "f", "request": {"GPU": 1.0}, "count": 3, "reason": "there is no GPU", "host": "", "is_actor": False}
    ]
    assert told["store"]["sealed_bytes"] == 100


def test_a_question_that_nobody_knows_names_those_that_are(view: Any) -> None:
    answer = status.answer(view, Ask(1, "weather"))
    assert answer.failure is not None
    assert "'weather'" in answer.failure.message
    assert "nodes" in answer.failure.message
