"""What is too much for one message, or would grow for ever: split, refused with a reason, or forgotten in time."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import meshray as ray
from meshray import context
from tests.until import until

GET_S = 30.0
SMALL = 90_000
"""Bytes that travel inline; a thousand of them are more than one message carries."""

pytestmark = pytest.mark.usefixtures("shared_mesh")


@ray.remote
class Host:
    """An actor that tells of its runtime."""

    def __init__(self, gate: str = "") -> None:
        while gate and not os.path.exists(gate):
            time.sleep(0.002)
        self.asked: list[Any] = []

    def size(self, data: bytes) -> int:
        return len(data)

    def make(self, gate: str) -> list[Any]:
        Path(gate + ".begun").touch()
        while not os.path.exists(gate):
            time.sleep(0.002)
        return [ray.put(1), ray.put(2)]

    def counts(self) -> dict[str, int]:
        engine = context.runtime().engine  # type: ignore[attr-defined]
        return {"pins": len(engine.pins), "children": sum(map(len, engine.host.children.by_task.values()))}

    def submit_from_a_thread(self, count: int) -> None:
        def submit() -> None:
            ray.get([one.remote() for _ in range(count)])

        thread = threading.Thread(target=submit)
        thread.start()
        self.asked.append(thread)

    def join(self) -> None:
        self.asked.pop().join()


@ray.remote
def one() -> int:
    return 1


def test_calls_that_gather_while_an_actor_starts(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    host = Host.remote(str(gate))
    refs = [host.size.remote(bytes(SMALL)) for _ in range(900)]
    gate.touch()
    assert ray.get(refs, timeout=GET_S) == [SMALL] * 900


def test_a_task_with_more_small_values_than_one_message_carries() -> None:
    @ray.remote
    def total(*parts: bytes, last: bytes) -> int:
        return sum(map(len, parts)) + len(last)

    refs = [ray.put(bytes(SMALL)) for _ in range(900)]
    assert ray.get(total.remote(*refs, last=refs[0]), timeout=GET_S) == 901 * SMALL


def test_a_function_that_has_captured_too_much() -> None:
    captured = bytes(40 << 20)

    @ray.remote
    def size() -> int:
        return len(captured)

    @ray.remote
    class Size:
        def get(self) -> int:
            return len(captured)

    with pytest.raises(ValueError, match=r"size is too large to be sent to workers: 40 MiB, at most 32"):
        size.remote()
    with pytest.raises(ValueError, match=r"Size is too large"):
        Size.remote()


def test_texts_that_no_message_can_carry() -> None:
    with pytest.raises(ValueError, match="at most 1024 characters"):
        ray.get_actor("n" * 2000)
    with pytest.raises(ValueError, match="a key of option 'resources' takes at most 1024 characters"):
        one.options(resources={"r" * 2000: 1})
    with pytest.raises(ValueError, match="at most 65536 characters"):
        one.options(runtime_env={"env_vars": {"A": "x" * 70_000}})
    with pytest.raises(ValueError, match="cannot be written in UTF-8"):
        one.options(name="\udc80")
    assert ray.get(one.remote(), timeout=GET_S) == 1


def test_what_the_threads_of_an_actor_submit_is_not_remembered() -> None:
    host = Host.remote()
    ray.get(host.submit_from_a_thread.remote(50), timeout=GET_S)
    ray.get(host.join.remote(), timeout=GET_S)
    assert ray.get(host.counts.remote(), timeout=GET_S)["children"] == 0


def test_references_in_a_result_whose_caller_died(tmp_path: Path) -> None:
    """Nobody takes the result: nor will anybody say that he has what is inside."""
    gate = tmp_path / "gate"
    host = Host.remote()

    @ray.remote(max_retries=0)
    def call(host: Any) -> None:
        host.make.remote(str(gate))
        until((tmp_path / "gate.begun").exists, "the call to begin")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(call.remote(host), timeout=GET_S)
    engine = context.runtime().engine  # type: ignore[attr-defined]
    until(lambda: bool(engine.dead), "the death to be told")
    gate.touch()
    until(lambda: ray.get(host.counts.remote(), timeout=GET_S)["pins"] == 0, "pins to end")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_wants_to_end_the_program_does_not_end_the_others(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @ray.remote
    def wait_for_it() -> int:
        until(gate.exists, "the callback to be there: a finished future would call it at once, in this thread")
        return 1

    def leave(_: Future[Any]) -> None:
        raise SystemExit

    first = wait_for_it.remote().future()
    first.add_done_callback(leave)
    gate.touch()
    assert first.result(GET_S) == 1
    assert one.remote().future().result(GET_S) == 1


@ray.remote(max_restarts=1)
class Crowd:
    """Runs more calls at once than its journal can name."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.inside = 0

    async def enter(self, number: int) -> None:
        with open(f"{self.folder}/{number}", "a") as file:  # noqa: ASYNC230  # it must be there before a crash
            file.write("x")
        self.inside += 1
        await asyncio.Event().wait()

    async def crash_when(self, inside: int) -> None:
        while self.inside < inside:  # noqa: ASYNC110  # a condition of a test, looked at in steps
            await asyncio.sleep(0.005)
        os._exit(1)

    async def here(self) -> int:
        return self.inside


def test_calls_that_a_full_journal_could_not_name_are_not_run_twice(tmp_path: Path) -> None:
    crowd = Crowd.remote(str(tmp_path))
    refs = [crowd.enter.remote(number) for number in range(700)]
    with pytest.raises(ray.exceptions.ActorError):
        ray.get(crowd.crash_when.remote(700), timeout=GET_S)
    assert ray.get(crowd.here.remote(), timeout=GET_S) == 0
    for ref in refs:
        with pytest.raises(ray.exceptions.ActorError):
            ray.get(ref, timeout=GET_S)
    assert {len(path.read_text()) for path in tmp_path.iterdir()} == {1}
