"""Ctrl-C, and what other signal handlers raise, wherever the main thread is just then."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import meshray as ray
from meshray import context
from tests.integration.programs import LIMIT_S, python, running, write
from tests.until import until


@ray.remote
def plus_one(number: int) -> int:
    return number + 1


@ray.remote
def wait_for(path: Path) -> str:
    path.with_suffix(".begun").touch()
    while not path.exists():
        time.sleep(0.005)
    return "done"


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


def is_ours(path: Path | str) -> bool:
    return Path(path).is_relative_to(Path(ray.__file__).parent)


def healthy() -> bool:
    runtime: Any = context.current_runtime()
    lock = runtime.engine.pump._lock
    if not lock.acquire(timeout=LIMIT_S):  # the background thread may hold it for a moment
        return False
    lock.release()
    return runtime.engine.broken is None


class Storm:
    """Signals to the main thread, again and again; its handler raises only while `armed`, and disarms then."""

    def __init__(self, number: int, error: type[BaseException], pause_s: float) -> None:
        self.number, self.error, self.pause_s = number, error, pause_s
        self.armed = False
        self.raised = 0
        self.sent = 0
        self._stop = threading.Event()

    def _handle(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            raise self.error

    def _run(self, thread: int) -> None:
        while not self._stop.is_set():
            signal.pthread_kill(thread, self.number)
            self.sent += 1
            time.sleep(self.pause_s)

    def until_done(self, action: Callable[[], Any]) -> Any:
        """Try until it was not interrupted; what it gave then."""
        while True:
            try:
                self.armed = True
                result = action()
                self.armed = False
                return result
            except self.error:
                self.raised += 1

    @classmethod
    @contextmanager
    def over(cls, number: int, error: type[BaseException], pause_s: float = 0.001) -> Iterator[Storm]:
        storm = cls(number, error, pause_s)
        previous = signal.signal(number, storm._handle)
        main = threading.main_thread().ident
        assert main is not None
        thread = threading.Thread(target=storm._run, args=(main,))
        thread.start()
        try:
            yield storm
        finally:
            storm._stop.set()
            thread.join(LIMIT_S)
            signal.signal(number, previous)


class Alarm(Exception):
    pass


# -- one interrupt -----------------------------------------------------------------------------------------------------


@contextmanager
def ctrl_c_when(condition: Callable[[], object]) -> Iterator[None]:
    """A Ctrl-C from outside, once the condition holds."""

    def press() -> None:
        until(condition)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        yield
    finally:
        thread.join(LIMIT_S)


def polling() -> bool:
    """Whether the main thread waits in its poll."""
    runtime: Any = context.current_runtime()
    return runtime.engine.pump._leader is not None and not runtime.engine.pump.shielded


class TestOneInterrupt:
    def test_in_get_it_comes_at_once_and_all_goes_on(self, shared_mesh: ModuleType, tmp_path: Path) -> None:
        ref = wait_for.remote(tmp_path / "go on")
        with ctrl_c_when(polling), pytest.raises(KeyboardInterrupt) as caught:
            ray.get(ref, timeout=LIMIT_S)
        assert not [frame for frame in caught.traceback if is_ours(frame.path)], "frames that tell nothing"
        assert healthy()
        assert ray.get([plus_one.remote(n) for n in range(100)], timeout=LIMIT_S) == list(range(1, 101))
        (tmp_path / "go on").touch()
        assert ray.get(ref, timeout=LIMIT_S) == "done"

    def test_in_wait_of_a_reference_and_of_time(self, shared_mesh: ModuleType, tmp_path: Path) -> None:
        ref = wait_for.remote(tmp_path / "go on")
        with ctrl_c_when(polling), pytest.raises(KeyboardInterrupt):
            ray.wait([ref], timeout=LIMIT_S)
        assert ray.wait([ref], timeout=0.01) == ([], [ref])
        (tmp_path / "go on").touch()
        assert ray.wait([ref], timeout=LIMIT_S) == ([ref], [])

    def test_what_a_handler_raises_keeps_its_own_frames(self, shared_mesh: ModuleType, tmp_path: Path) -> None:
        def ring(*_: object) -> None:
            raise RuntimeError("too late")

        ref = wait_for.remote(tmp_path / "go on")
        before = signal.signal(signal.SIGALRM, ring)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(RuntimeError, match="too late") as caught:
                ray.get(ref, timeout=LIMIT_S)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            (tmp_path / "go on").touch()
        told = [frame.name for frame in caught.traceback if not is_ours(frame.path)]
        assert told[-1] == "ring"
        assert len(told) == len(caught.traceback), "frames that tell nothing"
        assert ray.get(ref, timeout=LIMIT_S) == "done"

    def test_a_timeout_is_a_timeout_and_an_interrupt_an_interrupt(
        self, shared_mesh: ModuleType, tmp_path: Path
    ) -> None:
        ref = wait_for.remote(tmp_path / "go on")
        for _ in range(3):
            with pytest.raises(ray.exceptions.GetTimeoutError):
                ray.get(ref, timeout=0.01)
            with ctrl_c_when(polling), pytest.raises(KeyboardInterrupt):
                ray.get(ref, timeout=LIMIT_S)
        (tmp_path / "go on").touch()
        assert ray.get(ref, timeout=LIMIT_S) == "done"

    def test_the_workers_never_see_it(self, tmp_path: Path) -> None:
        """A terminal sends Ctrl-C to the whole group: tasks go on all the same."""
        program = write(
            tmp_path / "program.py",
            """
            import os, time
            import meshray as ray

            @ray.remote
            def slow(path):
                open(path + ".begun", "w").close()
                while not os.path.exists(path):
                    time.sleep(0.01)
                return "done"

            ray.init(num_cpus=2)
            ref = slow.remote("go")
            while not os.path.exists("go.begun"):
                time.sleep(0.01)
            os.setpgid(0, 0)
            try:
                print("press now", flush=True)
                ray.get(ref)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            open("go", "w").close()
            print("the value is", ray.get(ref, timeout=60))
            """,
        )
        with running(*python(program), cwd=tmp_path) as run:
            run.read_until("press now")
            os.killpg(run.pid, signal.SIGINT)
            told = run.end()
        assert "interrupted" in told
        assert "the value is done" in told
        assert "Traceback" not in told

    def test_nobody_catches_it(self, tmp_path: Path) -> None:
        """The program ends as Python programs do, and the mesh with it."""
        program = write(
            tmp_path / "program.py",
            """
            import time
            import meshray as ray

            @ray.remote
            def slow():
                time.sleep(600)

            ray.init(num_cpus=1)
            ref = slow.remote()
            print("press now", flush=True)
            ray.get(ref)
            """,
        )
        with running(*python(program), cwd=tmp_path) as run:
            run.read_until("press now")
            run.send(signal.SIGINT)
            told = run.end(None)
            assert run.process.returncode == -signal.SIGINT
        assert told.count("Traceback") == 1
        assert "KeyboardInterrupt" in told

    def test_a_second_one_while_the_program_ends(self, tmp_path: Path) -> None:
        """It shortens the end; where in our code it came is of no use to anybody."""
        program = write(
            tmp_path / "program.py",
            """
            import os, signal
            import meshray as ray
            import meshray.runtime.joining as joining

            end = joining._end_private

            def press_and_end(*about):
                os.kill(os.getpid(), signal.SIGINT)
                end(*about)

            joining._end_private = press_and_end
            ray.init(num_cpus=1)
            """,
        )
        with running(*python(program), cwd=tmp_path) as run:
            assert run.end(0) == ""

    @pytest.mark.parametrize("delay_ms", [0, 20, 60, 120, 250])
    def test_while_the_mesh_starts_or_ends(self, tmp_path: Path, delay_ms: int) -> None:
        """Whenever it comes: the program goes on, a new mesh works, nothing is left (the leak check sees to that)."""
        program = write(
            tmp_path / "program.py",
            f"""
            import os, signal, threading, time
            import meshray as ray
            import meshray.runtime.attach

            @ray.remote
            def f(x):
                return x + 1

            def press():
                time.sleep({delay_ms} / 1000)
                os.kill(os.getpid(), signal.SIGINT)

            hits = 0
            for _ in range(2):
                thread = threading.Thread(target=press)
                try:
                    thread.start()
                    ray.init(num_cpus=1)
                    ray.get(f.remote(1), timeout=60)
                    ray.shutdown()
                    thread.join()
                    time.sleep(0.01)
                except KeyboardInterrupt:
                    hits += 1
                thread.join()
                ray.shutdown()
                ray.init(num_cpus=1)
                assert ray.get(f.remote(2), timeout=60) == 3
                ray.shutdown()
            print("hits", hits)
            """,
        )
        with running(*python(program)) as run:
            assert "hits 2" in run.end()


# -- handlers of the program's own -------------------------------------------------------------------------------------


class TestOwnHandlers:
    def test_a_sigint_handler_that_was_there_before_init(self, tmp_path: Path) -> None:
        program = write(
            tmp_path / "program.py",
            """
            import os, signal, threading, time
            import meshray as ray

            calls = []

            def handler(*_):
                calls.append(1)
                open("handled", "w").close()

            signal.signal(signal.SIGINT, handler)

            @ray.remote
            def slow():
                while not os.path.exists("handled"):
                    time.sleep(0.01)
                return "done"

            ray.init(num_cpus=1)
            threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            assert ray.get(slow.remote(), timeout=60) == "done"
            assert calls == [1]
            ray.shutdown()
            assert signal.getsignal(signal.SIGINT) is handler
            print("all is well")
            """,
        )
        with running(*python(program), cwd=tmp_path) as run:
            assert "all is well" in run.end()

    def test_one_that_raises_in_get(self, shared_mesh: ModuleType, tmp_path: Path) -> None:
        def handle(*_: object) -> None:
            raise Alarm

        previous = signal.signal(signal.SIGALRM, handle)
        try:
            ref = wait_for.remote(tmp_path / "go on")
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Alarm):
                ray.get(ref, timeout=LIMIT_S)
            assert healthy()
            (tmp_path / "go on").touch()
            assert ray.get(ref, timeout=LIMIT_S) == "done"
        finally:
            signal.signal(signal.SIGALRM, previous)

    def test_one_that_calls_us(self, shared_mesh: ModuleType, tmp_path: Path) -> None:
        """A handler may submit and get: it runs between our sections, never inside one."""
        got: list[tuple[int, int]] = []
        numbers = itertools.count()

        def handle(*_: object) -> None:
            number = next(numbers)
            got.append((number, ray.get(plus_one.remote(number), timeout=LIMIT_S)))

        previous = signal.signal(signal.SIGUSR1, handle)
        main = threading.main_thread().ident
        assert main is not None

        def send() -> None:
            for _ in range(50):
                signal.pthread_kill(main, signal.SIGUSR1)
                time.sleep(0.002)
            (tmp_path / "go on").touch()

        thread = threading.Thread(target=send)
        try:
            ref = wait_for.remote(tmp_path / "go on")
            thread.start()
            assert ray.get(ref, timeout=LIMIT_S) == "done"
            assert ray.get([plus_one.remote(n) for n in range(300)], timeout=LIMIT_S) == list(range(1, 301))
        finally:
            thread.join(LIMIT_S)
            signal.signal(signal.SIGUSR1, previous)
        assert got
        assert all(value == number + 1 for number, value in got)
        assert healthy()


# -- storms ------------------------------------------------------------------------------------------------------------


class TestStorms:
    @pytest.mark.parametrize(
        ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGALRM, Alarm)], ids=["SIGINT", "SIGALRM"]
    )
    def test_gets_and_submits_and_actors_lose_nothing(
        self, shared_mesh: ModuleType, number: int, error: type[BaseException]
    ) -> None:
        counter = Counter.remote()
        before = ray.get(counter.add.remote(), timeout=LIMIT_S)
        added = 0
        with Storm.over(number, error) as storm:
            for round_ in range(30):
                refs = [storm.until_done(lambda n=n: plus_one.remote(n)) for n in range(20)]
                values = storm.until_done(lambda refs=refs: ray.get(refs, timeout=LIMIT_S))
                assert values == list(range(1, 21)), round_
                assert storm.until_done(lambda r=refs: ray.wait(r, num_returns=20, timeout=LIMIT_S)) == (refs, [])
                large = storm.until_done(lambda: ray.put(b"x" * 300_000))
                assert storm.until_done(lambda ref=large: ray.get(ref, timeout=LIMIT_S)) == b"x" * 300_000
                call = storm.until_done(counter.add.remote)
                added += 1
                assert storm.until_done(lambda ref=call: ray.get(ref, timeout=LIMIT_S)) >= before + added
        assert storm.raised > 10
        assert healthy()
        assert ray.get([plus_one.remote(n) for n in range(200)], timeout=LIMIT_S) == list(range(1, 201))

    def test_they_hit_the_main_thread_and_not_the_others(self, shared_mesh: ModuleType) -> None:
        results: dict[int, list[int]] = {}

        def work(base: int) -> None:
            results[base] = [ray.get(plus_one.remote(base + n), timeout=LIMIT_S) for n in range(100)]

        threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(4)]
        with Storm.over(signal.SIGINT, KeyboardInterrupt) as storm:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                refs = [storm.until_done(lambda n=n: plus_one.remote(n)) for n in range(5)]
                assert storm.until_done(lambda refs=refs: ray.get(refs, timeout=LIMIT_S)) == [1, 2, 3, 4, 5]
        assert results == {1000 * n: list(range(1000 * n + 1, 1000 * n + 101)) for n in range(4)}
        assert healthy()


# -- many threads ------------------------------------------------------------------------------------------------------


def test_leaders_and_followers_with_and_without_timeouts(shared_mesh: ModuleType, tmp_path: Path) -> None:
    """Threads that wait long, briefly, and not at all, side by side; every value comes, every timeout is one."""
    wrong: list[str] = []
    blocked = wait_for.remote(tmp_path / "go on")

    def patient() -> None:
        if ray.get(blocked, timeout=LIMIT_S) != "done":
            wrong.append("patient")

    def brief() -> None:
        for _ in range(20):
            try:
                ray.get(blocked, timeout=0.003)
                wrong.append("brief got it")
            except ray.exceptions.GetTimeoutError:
                continue

    def busy(base: int) -> None:
        for n in range(50):
            if ray.get(plus_one.remote(base + n), timeout=LIMIT_S) != base + n + 1:
                wrong.append("busy")

    patients = [threading.Thread(target=patient) for _ in range(4)]
    others = [threading.Thread(target=brief) for _ in range(3)]
    others += [threading.Thread(target=busy, args=(100 * n,)) for n in range(4)]
    for thread in patients + others:
        thread.start()
    for thread in others:
        thread.join(LIMIT_S)
    (tmp_path / "go on").touch()
    for thread in patients:
        thread.join(LIMIT_S)
    assert not any(thread.is_alive() for thread in patients + others)
    assert wrong == []
