"""Every row: its name, unit, group, goal, and who can run it.

Rows of `ray microbenchmark` carry its names. Left out of it: placement groups (not built yet) and the callbacks for
objects that go out of scope (private to Ray). Two rows differ in their data: Ray puts arrays of untouched zeros, which
all map one page of zeros; here the arrays are touched, for every subject alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

APIS = ("meshray", "ray")  # subjects with Ray's API
POOLS = ("processpool", "loky", "dask")  # subjects that run functions only
RIVALS = ("ray", *POOLS)
MACHINE = "machine"  # the subject of the limits


@dataclass(frozen=True)
class Goal:
    """What meshray aims at, as a text and as a condition; exactly one of the conditions is given.

    `times` as good as a `rival` on the same row, `times` as good as the `limit` row, or `at_most` or `at_least` in the
    row's unit.
    """

    times: float = 0.0
    rival: str = ""
    limit: str = ""
    at_most: float = 0.0
    at_least: float = 0.0

    def text(self, unit: str) -> str:
        if self.rival:
            return f">= {self.times:g}x {self.rival}"
        if self.limit and unit.endswith("/s"):
            return f">= {self.times:g} of “{self.limit}”"
        if self.limit:
            return f"<= {1 / self.times:g}x “{self.limit}”"
        return f"<= {self.at_most:g} {unit}" if self.at_most else f">= {self.at_least:g} {unit}"


@dataclass(frozen=True)
class Row:
    name: str
    group: str  # rows of one group and subject share a process
    unit: str  # "/s", "GB/s" and "x" (so many times as fast) are better when higher, all others when lower
    goal: Goal | None = None
    subjects: tuple[str, ...] = ("meshray",)

    @property
    def higher_is_better(self) -> bool:
        return self.unit.endswith("/s") or self.unit == "x"


def _ray(name: str, group: str, times: float, unit: str = "/s", more: tuple[str, ...] = ()) -> Row:
    return Row(name, group, unit, Goal(times=times, rival="ray"), APIS + more)


PING_PONG = "raw ROUTER/DEALER ping-pong over ipc"
MEMORY_COPY = "memory copy, warm, 0.8 GB"
FRESH_WRITE = "pwrite into fresh shared-memory files"
TASKS_ASYNC = "single client tasks async"
IN_TURN = "single client tasks async, in turn with a process pool"

# between hosts (`--lan`): groups, and rows that are named elsewhere
LIMITS_BETWEEN, CALLS_BETWEEN, FETCHES, FAN_OUT, MEMBERS = LAN_GROUPS = (
    "limits between hosts", "calls between hosts", "fetches", "fan-out", "members",
)  # fmt: skip
CURVE_PING_PONG = "raw ROUTER/DEALER ping-pong with CURVE"
CURVE_STREAM = "raw CURVE stream"
TASK_ADDED = "one task on another host, added to a ping-pong with CURVE"
CALL_ADDED = "one call of an actor on another host, added to a ping-pong with CURVE"
TASKS_SYNC, TASKS_ASYNC_BETWEEN = "tasks on another host sync", "tasks on another host async"
CALLS_SYNC, CALLS_ASYNC = "calls of an actor on another host sync", "calls of an actor on another host async"
FETCH_FRESH, FETCH_RECYCLED = "fetch of 1 GB, into fresh segments", "fetch of 1 GB, into recycled segments"
FETCH_FRESH_IN_TURN = "fetch of 1 GB, into fresh segments, in turn with a raw CURVE stream"
FETCH_RECYCLED_IN_TURN = "fetch of 1 GB, into recycled segments, in turn with a raw CURVE stream"
TO_ONE, TO_FIVE = "256 MB to one host, over 200 Mbit/s", "256 MB to five hosts, over 200 Mbit/s each"
START_TO_MEMBER, DEATH_TO_RETRY = "from `meshray start` to member", "from the death of a peer to the retry of its task"

ROWS: tuple[Row, ...] = (
    Row(PING_PONG, "limits", "/s", None, (MACHINE,)),
    Row(MEMORY_COPY, "limits", "GB/s", None, (MACHINE,)),
    Row(FRESH_WRITE, "limits", "GB/s", None, (MACHINE,)),
    # -- start-up and memory
    Row("import", "start-up", "s", Goal(at_most=0.1), APIS + POOLS),
    Row("init to first result", "start-up", "s", Goal(at_most=0.3), APIS + POOLS),
    Row("shutdown", "start-up", "s", Goal(at_most=0.2), APIS + POOLS),
    Row("idle memory, 2 CPUs, all processes but the driver", "memory", "MB", Goal(at_most=100), APIS),
    # -- synchronous rows, in alternating blocks against the ping-pong
    Row("one task, added to a ping-pong", "alternating", "µs", Goal(at_most=60), APIS),
    Row("one actor call, added to a ping-pong", "alternating", "µs", Goal(at_most=60), APIS),
    # -- the rows of ray microbenchmark
    _ray("single client get calls (Plasma Store)", "objects", 30),
    _ray("single client put calls (Plasma Store)", "objects", 30),
    _ray("multi client put calls (Plasma Store)", "objects", 30),
    Row("single client put gigabytes", "objects", "GB/s", Goal(times=0.9, limit=MEMORY_COPY), APIS),
    _ray("single client tasks and get batch", "tasks", 100),
    Row("multi client put gigabytes", "objects", "GB/s", Goal(times=0.9, limit=MEMORY_COPY), APIS),
    _ray("single client get object containing 10k refs", "objects", 5),
    _ray("single client wait 1k refs", "tasks", 10),
    Row("single client tasks sync", "tasks", "/s", None, APIS + POOLS),
    Row(TASKS_ASYNC, "tasks", "/s", None, APIS + POOLS),
    Row(IN_TURN, "in turn", "x", Goal(at_least=20)),  # the goal of the row above: minutes apart the two vary by half
    _ray("multi client tasks async", "tasks", 40),
    Row("1:1 actor calls sync", "actors", "/s", None, APIS),
    _ray("1:1 actor calls async", "actors", 30),
    _ray("1:1 actor calls concurrent", "actors", 10),
    _ray("1:n actor calls async", "actors", 15),
    _ray("n:n actor calls async", "actors", 15),
    _ray("n:n actor calls with arg async", "actors", 15),
    _ray("1:1 async-actor calls sync", "async actors", 8),
    _ray("1:1 async-actor calls async", "async actors", 15),
    _ray("1:1 async-actor calls with args async", "async actors", 15),
    _ray("1:n async-actor calls async", "async actors", 15),
    _ray("n:n async-actor calls async", "async actors", 15),
    # -- what Ray's benchmark does not ask
    Row("processor time of a task, driver", "processor time", "µs", None, APIS),
    Row("processor time of a task, all other processes", "processor time", "µs", None, APIS),
    Row("put, live set growing to 4 GB", "growth", "GB/s", Goal(times=0.9, limit=FRESH_WRITE), APIS),
    Row("get of a 1 GB array", "growth", "ms", Goal(at_most=1), APIS),
    Row("submit to start while the caller computes", "scale", "ms", Goal(at_most=5), APIS),
    Row("10,000 refs as arguments of one task", "scale", "ms", None, APIS),
    Row("3,000 returns of one task", "scale", "ms", None, APIS),
    Row("10,000 refs in one get", "scale", "ms", None, APIS),
    Row("100 actors started", "scale", "s", None),
    Row("nesting 200 deep", "scale", "s", None),
    Row("1,000,000 queued tasks", "million", "/s", Goal(times=0.5, limit=TASKS_ASYNC)),
    Row("1,000,000 queued tasks, memory of the driver for each", "million", "KB", Goal(at_most=1)),
    Row("first task of a second driver beside them", "second driver", "s", Goal(at_most=0.5)),
    # -- between hosts: network namespaces on one machine
    Row(CURVE_PING_PONG, LIMITS_BETWEEN, "/s", None, (MACHINE,)),
    Row(CURVE_STREAM, LIMITS_BETWEEN, "GB/s", None, (MACHINE,)),
    Row(TASK_ADDED, CALLS_BETWEEN, "µs", None, APIS),
    Row(TASKS_SYNC, CALLS_BETWEEN, "/s", None, APIS),
    Row(TASKS_ASYNC_BETWEEN, CALLS_BETWEEN, "/s", None, APIS),
    Row(CALL_ADDED, CALLS_BETWEEN, "µs", None, APIS),
    Row(CALLS_SYNC, CALLS_BETWEEN, "/s", None, APIS),
    Row(CALLS_ASYNC, CALLS_BETWEEN, "/s", None, APIS),
    Row(FETCH_FRESH, FETCHES, "GB/s", None, APIS),
    Row(FETCH_RECYCLED, FETCHES, "GB/s", None, APIS),
    Row(FETCH_FRESH_IN_TURN, FETCHES, "x", Goal(at_least=0.6)),  # of the stream; minutes apart they vary by a third
    Row(FETCH_RECYCLED_IN_TURN, FETCHES, "x", Goal(at_least=0.85)),
    Row(TO_ONE, FAN_OUT, "s", None, APIS),
    Row(TO_FIVE, FAN_OUT, "s", Goal(times=0.5, limit=TO_ONE), APIS),
    Row(START_TO_MEMBER, MEMBERS, "s", Goal(at_most=2)),
    Row(DEATH_TO_RETRY, MEMBERS, "s", Goal(at_most=10)),
)

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(row.group for row in ROWS if row.group not in LAN_GROUPS))


def rows_of(group: str, subject: str, patterns: Sequence[str] = ("*",)) -> list[Row]:
    """The rows of a group that `subject` can run and whose name (or group) matches one of these shell patterns."""
    wanted = [pattern if any(mark in pattern for mark in "*?[") else f"*{pattern}*" for pattern in patterns]
    return [
        row
        for row in ROWS
        if row.group == group
        and subject in row.subjects
        and any(fnmatch(row.name, each) or fnmatch(row.group, each) for each in wanted)
    ]
