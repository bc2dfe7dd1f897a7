"""Actors that die and start again: by signal, by exit, by kill; in a call, idle, in the constructor."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import meshray as ray
from meshray import context
from tests.until import until

LIMIT_S = 30.0

pytestmark = pytest.mark.usefixtures("shared_mesh")


def get(refs: Any) -> Any:
    return ray.get(refs, timeout=LIMIT_S)


@ray.remote
class Mortal:
    """Counts its calls in a file too, which outlives it."""

    def __init__(self, journal: Path | None = None) -> None:
        self.calls = 0
        self.journal = journal

    def _write(self, what: object) -> None:
        if self.journal is not None:
            with self.journal.open("a") as file:
                file.write(f"{what}\n")

    def call(self, what: object = "call") -> int:
        self._write(what)
        self.calls += 1
        return self.calls

    def pid(self) -> int:
        return os.getpid()

    def die(self, how: str = "kill", *, only_first: bool = False) -> str:
        self._write(how)
        if only_first and ray.get_runtime_context().was_current_actor_reconstructed:
            return "survived"
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif how == "os._exit":
            os._exit(7)
        raise SystemExit(7)

    def reconstructed(self) -> bool:
        return ray.get_runtime_context().was_current_actor_reconstructed


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.touch()
    return path


class TestWithoutRestarts:
    @pytest.mark.fault(3)
    @pytest.mark.parametrize(
        ("how", "told"), [("kill", "SIGKILL"), ("segfault", "SIGSEGV"), ("os._exit", "exit code 7"), ("sys.exit", "7")]
    )
    def test_it_dies_in_a_call(self, how: str, told: str) -> None:
        mortal = Mortal.remote()
        before = mortal.call.remote()
        ref = mortal.die.remote(how)
        behind = mortal.call.remote()
        assert get(before) == 1
        for each in (ref, behind, mortal.call.remote()):
            with pytest.raises(ray.exceptions.ActorDiedError, match=told):
                get(each)

    @pytest.mark.fault(3)
    def test_it_dies_idle(self) -> None:
        mortal = Mortal.remote()
        pid = get(mortal.pid.remote())
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ray.exceptions.ActorDiedError, match="SIGKILL"):
            get(mortal.call.remote())

    @pytest.mark.fault(3)
    def test_it_dies_in_its_constructor(self) -> None:
        @ray.remote
        class Stillborn:
            def __init__(self) -> None:
                os._exit(9)

            def call(self) -> None:
                pass

        stillborn = Stillborn.remote()
        for _ in range(2):
            with pytest.raises(ray.exceptions.ActorDiedError, match="exit code 9"):
                get(stillborn.call.remote())

    def test_what_had_finished_before_the_crash_counts(self, journal: Path) -> None:
        mortal = Mortal.remote(journal)
        finished = [mortal.call.remote(number) for number in range(200)]
        dying = mortal.die.remote()
        never = [mortal.call.remote("never") for _ in range(10)]
        assert get(finished) == list(range(1, 201))
        for ref in (dying, *never):
            with pytest.raises(ray.exceptions.ActorDiedError):
                get(ref)
        assert journal.read_text().split() == [*map(str, range(200)), "kill"]

    def test_the_last_words_are_told(self) -> None:
        @ray.remote
        class Loud:
            def die(self) -> None:
                os.write(2, b"the end is near\n")
                os._exit(3)

        with pytest.raises(ray.exceptions.ActorDiedError, match="the end is near"):
            get(Loud.remote().die.remote())

    def test_an_async_one_whose_runtime_has_failed_ends_and_tells_what_had_finished(self) -> None:
        """Nothing is received any more: on its loop it would wake for ever, and its callers would wait."""

        @ray.remote
        class Failing:
            async def fail(self) -> str:
                runtime: Any = context.current_runtime()
                runtime.engine.on_failure(RuntimeError("as if meshray had made a mistake"))
                return "finished"

            async def call(self) -> None:
                pass

        failing = Failing.remote()
        assert get(failing.fail.remote()) == "finished"
        with pytest.raises(ray.exceptions.ActorDiedError):
            get(failing.call.remote())

    def test_its_resources_are_free_again(self) -> None:
        until(lambda: ray.available_resources().get("CPU") == 2.0)
        mortal = Mortal.options(num_cpus=2).remote()
        ref = mortal.die.remote()
        with pytest.raises(ray.exceptions.ActorDiedError):
            get(ref)
        until(lambda: ray.available_resources().get("CPU") == 2.0)

    def test_a_waiting_caller_in_another_process_is_told(self) -> None:
        @ray.remote
        def call(mortal: Any) -> str:
            try:
                ray.get(mortal.die.remote(), timeout=LIMIT_S)
            except ray.exceptions.ActorDiedError as error:
                return str(error)
            return "lives"

        assert "SIGKILL" in get(call.remote(Mortal.remote()))


class TestRestarts:
    @pytest.mark.fault(3)
    def test_it_starts_again_with_the_constructor_and_without_its_state(self) -> None:
        mortal = Mortal.options(max_restarts=1).remote()
        first = get(mortal.pid.remote())
        assert get([mortal.call.remote(), mortal.call.remote()]) == [1, 2]
        assert get(mortal.reconstructed.remote()) is False
        os.kill(first, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(first))
        assert get(mortal.call.remote()) == 1
        second = get(mortal.pid.remote())
        assert second != first
        assert get(mortal.reconstructed.remote()) is True
        os.kill(second, signal.SIGKILL)
        with pytest.raises(ray.exceptions.ActorDiedError, match="1 restarts are used up"):
            get(mortal.call.remote())

    def test_the_call_that_killed_it_is_not_repeated_unasked(self, journal: Path) -> None:
        mortal = Mortal.options(max_restarts=5).remote(journal)
        with pytest.raises(ray.exceptions.ActorError, match="die"):
            get(mortal.die.remote())
        assert get(mortal.call.remote("after")) == 1
        assert journal.read_text().split() == ["kill", "after"]

    def test_calls_behind_it_run_after_the_restart_in_order(self, journal: Path) -> None:
        mortal = Mortal.options(max_restarts=1).remote(journal)
        dying = mortal.die.remote()
        behind = [mortal.call.remote(number) for number in range(20)]
        assert get(behind) == list(range(1, 21))
        with pytest.raises(ray.exceptions.ActorError):
            get(dying)
        assert journal.read_text().split() == ["kill", *map(str, range(20))]

    @pytest.mark.fault(3)
    def test_max_task_retries_repeats_it(self, journal: Path) -> None:
        mortal = Mortal.options(max_restarts=-1, max_task_retries=2).remote(journal)
        assert get(mortal.die.remote(only_first=True)) == "survived"
        assert journal.read_text().split() == ["kill", "kill"]

    def test_no_more_often_than_that(self, journal: Path) -> None:
        mortal = Mortal.options(max_restarts=-1, max_task_retries=2).remote(journal)
        ref = mortal.die.remote("os._exit")
        later = mortal.call.remote("later")
        with pytest.raises(ray.exceptions.ActorError):
            get(ref)
        assert get(later) == 1
        assert journal.read_text().split() == ["os._exit"] * 3 + ["later"]

    def test_arguments_of_the_constructor_outlive_those_who_gave_them(self) -> None:
        @ray.remote(max_restarts=1, max_task_retries=1)
        class Keeper:
            def __init__(self, large: np.ndarray, by_reference: np.ndarray, inside: list[Any]) -> None:
                self.parts = (large, by_reference, ray.get(inside[0], timeout=LIMIT_S))

            def sums(self) -> list[float]:
                return [float(part.sum()) for part in self.parts]

            def pid(self) -> int:
                return os.getpid()

        @ray.remote
        def make() -> Any:
            return Keeper.remote(np.ones(200_000), ray.put(np.ones(200_000) * 2), [ray.put(np.ones(200_000) * 3)])

        for keeper in (
            get(make.remote()),
            Keeper.remote(np.ones(200_000), ray.put(np.ones(200_000) * 2), [ray.put(np.ones(200_000) * 3)]),
        ):
            expected = [200_000.0, 400_000.0, 600_000.0]
            assert get(keeper.sums.remote()) == expected
            pid = get(keeper.pid.remote())
            os.kill(pid, signal.SIGKILL)
            assert get(keeper.sums.remote()) == expected
            assert get(keeper.pid.remote()) != pid

    def test_a_name_stays_over_a_restart(self) -> None:
        mortal = Mortal.options(name="phoenix", max_restarts=1).remote()
        os.kill(get(mortal.pid.remote()), signal.SIGKILL)
        assert get(ray.get_actor("phoenix").call.options(max_task_retries=1).remote()) in (1, 2)
        assert ray.get_actor("phoenix") == mortal

    def test_its_resources_stay_its_own(self) -> None:
        until(lambda: ray.available_resources().get("CPU") == 2.0)
        mortal = Mortal.options(num_cpus=1, max_restarts=1, max_task_retries=1).remote()
        os.kill(get(mortal.pid.remote()), signal.SIGKILL)
        assert get(mortal.reconstructed.remote()) is True
        assert ray.available_resources()["CPU"] == 1.0
        del mortal
        until(lambda: ray.available_resources().get("CPU") == 2.0)

    def test_callers_in_several_processes(self, journal: Path) -> None:
        @ray.remote
        def call(mortal: Any, name: str) -> int:
            refs = [mortal.call.options(max_task_retries=-1).remote(f"{name}{number}") for number in range(100)]
            return len(ray.get(refs, timeout=LIMIT_S))

        mortal = Mortal.options(max_restarts=3).remote(journal)
        pid = get(mortal.pid.remote())
        refs = [call.remote(mortal, name) for name in "ab"]
        until(lambda: "b5\n" in journal.read_text())
        os.kill(pid, signal.SIGKILL)
        assert get(refs) == [100, 100]
        written = journal.read_text().split()
        for name in "ab":
            own = [word for word in written if word.startswith(name)]
            assert list(dict.fromkeys(own)) == [f"{name}{number}" for number in range(100)]
            assert len(own) <= 101  # at most the one that was running is repeated

    def test_a_caller_that_meets_it_again_is_not_given_the_results_of_its_earlier_calls(self) -> None:
        @ray.remote(max_restarts=1, max_task_retries=-1)
        class Echo:
            def echo(self, what: str) -> str:
                return what

            def die_once(self) -> str:
                if not ray.get_runtime_context().was_current_actor_reconstructed:
                    os._exit(1)
                return "died"

        @ray.remote
        class Caller:
            def use(self, echo: Any, words: list[str]) -> list[str]:
                return ray.get([echo.echo.remote(word) for word in words], timeout=LIMIT_S)

            def kill_and_use(self, echo: Any, words: list[str]) -> list[str]:
                refs = [echo.die_once.remote(), *(echo.echo.remote(word) for word in words)]
                return ray.get(refs, timeout=LIMIT_S)

        echo, caller = Echo.remote(), Caller.remote()
        first, second = [[f"{name}{number}" for number in range(100)] for name in "ab"]
        assert get(caller.use.remote(echo, first)) == first
        assert get(caller.kill_and_use.remote(echo, second)) == ["died", *second]

    def test_the_constructor_may_crash_and_succeed_later(self, journal: Path) -> None:
        @ray.remote(max_restarts=3)
        class Slow:
            def __init__(self, journal: Path) -> None:
                with journal.open("a") as file:
                    file.write("try\n")
                if len(journal.read_text().split()) < 3:
                    os._exit(1)

            def call(self) -> str:
                return "at last"

        assert get(Slow.remote(journal).call.remote()) == "at last"

    def test_a_constructor_that_raises_is_the_end_all_the_same(self, journal: Path) -> None:
        @ray.remote(max_restarts=3)
        class Broken:
            def __init__(self, journal: Path) -> None:
                with journal.open("a") as file:
                    file.write("try\n")
                raise KeyError("always")

            def call(self) -> None:
                pass

        with pytest.raises(ray.exceptions.ActorDiedError, match="always"):
            get(Broken.remote(journal).call.remote())
        assert journal.read_text().split() == ["try"]


class TestKill:
    def test_with_a_restart(self) -> None:
        mortal = Mortal.options(max_restarts=1).remote()
        pid = get(mortal.pid.remote())
        assert get(mortal.call.remote()) == 1
        ray.kill(mortal, no_restart=False)
        assert get(mortal.call.remote()) == 1
        assert get(mortal.pid.remote()) != pid
        ray.kill(mortal, no_restart=False)
        with pytest.raises(ray.exceptions.ActorDiedError, match="kill"):
            get(mortal.call.remote())

    def test_for_good(self) -> None:
        mortal = Mortal.options(max_restarts=-1, max_task_retries=-1).remote()
        running = mortal.__ray_call__.remote(lambda self: time.sleep(60))
        get(Mortal.remote().call.remote())
        ray.kill(mortal)
        for ref in (running, mortal.call.remote()):
            with pytest.raises(ray.exceptions.ActorDiedError, match="kill"):
                get(ref)

    def test_exit_actor_is_not_restarted(self) -> None:
        mortal = Mortal.options(max_restarts=-1).remote()
        get(mortal.call.remote())
        with pytest.raises(ray.exceptions.ActorDiedError):
            get(mortal.__ray_terminate__.remote())
        with pytest.raises(ray.exceptions.ActorDiedError, match="exit_actor"):
            get(mortal.call.remote())

    def test_while_its_constructor_runs(self, journal: Path) -> None:
        @ray.remote
        class Endless:
            def __init__(self, journal: Path) -> None:
                journal.write_text(f"{os.getpid()}\n")
                time.sleep(600)

            def call(self) -> None:
                pass

        endless = Endless.remote(journal)
        ref = endless.call.remote()
        until(lambda: journal.read_text().endswith("\n"))
        ray.kill(endless)
        with pytest.raises(ray.exceptions.ActorDiedError, match="kill"):
            get(ref)
        until(lambda: not psutil.pid_exists(int(journal.read_text())))

    def test_by_a_task(self) -> None:
        @ray.remote
        def kill(handle: Any) -> None:
            ray.kill(handle)

        mortal = Mortal.remote()
        pid = get(mortal.pid.remote())
        get(kill.remote(mortal))
        until(lambda: not psutil.pid_exists(pid))
        with pytest.raises(ray.exceptions.ActorDiedError, match="kill"):
            get(mortal.call.remote())

    def test_cancel_of_a_call_during_a_restart(self) -> None:
        mortal = Mortal.options(max_restarts=1).remote()
        os.kill(get(mortal.pid.remote()), signal.SIGKILL)
        refs = [mortal.call.remote() for _ in range(3)]
        ray.cancel(refs[1])
        seen = []
        for ref in refs:
            try:
                seen.append(get(ref))
            except ray.exceptions.MeshrayError as error:
                seen.append(type(error).__name__)
        assert seen[1] in (2, "TaskCancelledError")
        assert seen[2] in (1, 2, 3)


@ray.remote
def note_down(journal: Path, go: Path, what: str, _after: object = None) -> None:
    """Once it may."""
    until(go.exists)
    with journal.open("a") as file:
        file.write(f"{what}\n")


@ray.remote
class Forgetful:
    """Submits tasks and does not wait for them."""

    def submit(self, journal: Path, go: Path) -> None:
        first = note_down.remote(journal, go, "task")
        note_down.remote(journal, go, "task after a task", first)
        for _ in range(4):  # more than run at once
            note_down.remote(journal, go, "task")

    def submit_and_exit(self, journal: Path, go: Path) -> None:
        self.submit(journal, go)
        ray.actor.exit_actor()


class TestWhatItHasSubmitted:
    """An actor that ends in good order does not take it along."""

    ALL = ["task"] * 5 + ["task after a task"]

    @pytest.mark.parametrize("num_cpus", [0, 2])  # all that there are: they are lent
    def test_the_last_handle_goes(self, journal: Path, tmp_path: Path, num_cpus: int) -> None:
        actor = Forgetful.options(num_cpus=num_cpus).remote()
        get(actor.submit.remote(journal, tmp_path / "go"))
        del actor
        (tmp_path / "go").touch()
        until(lambda: sorted(journal.read_text().splitlines()) == self.ALL, "all of them have run")
        until(lambda: ray.available_resources()["CPU"] == 2, "and it is gone")

    def test_it_exits(self, journal: Path, tmp_path: Path) -> None:
        actor = Forgetful.remote()
        actor.submit_and_exit.remote(journal, tmp_path / "go")
        with pytest.raises(ray.exceptions.ActorDiedError):
            get(actor.__ray_ready__.remote())
        (tmp_path / "go").touch()
        until(lambda: sorted(journal.read_text().splitlines()) == self.ALL, "all of them have run")

    def test_kill_does_not_wait(self, journal: Path, tmp_path: Path) -> None:
        actor = Forgetful.remote()
        get(actor.submit.remote(journal, tmp_path / "go"))
        ray.kill(actor)
        until(lambda: ray.available_resources()["CPU"] == 2, "what ran for it has ended")
        (tmp_path / "go").touch()
        get(note_down.remote(journal, tmp_path / "go", "mine"))
        assert journal.read_text() == "mine\n"


class TestCallersThatDie:
    @pytest.mark.parametrize("max_concurrency", [1, 3])
    def test_their_queued_calls_are_dropped_and_others_are_served(self, journal: Path, max_concurrency: int) -> None:
        gate = journal.parent / "gate"
        mortal = Mortal.options(max_concurrency=max_concurrency).remote(journal)
        get(mortal.__ray_ready__.remote())

        @ray.remote
        class Caller:
            def pid(self) -> int:
                return os.getpid()

            def call(self, mortal: Any, gate: Path) -> None:
                self.kept = [mortal.__ray_call__.remote(_until, gate) for _ in range(4)]
                self.kept += [mortal.call.remote("queued") for _ in range(20)]

        for _ in range(3):
            caller = Caller.remote()
            get(caller.call.remote(mortal, gate))
            os.kill(get(caller.pid.remote()), signal.SIGKILL)
            until(lambda caller=caller: _is_dead(caller))
        gate.touch()
        assert get(mortal.call.remote("own")) >= 1
        get([mortal.call.remote(number) for number in range(100)])


def _until(instance: Any, gate: Path) -> None:
    give_up_at = time.monotonic() + LIMIT_S
    while not gate.exists() and time.monotonic() < give_up_at:
        time.sleep(0.005)


class TestChildren:
    @pytest.mark.fault(8)
    def test_an_actor_that_owns_references_dies(self) -> None:
        @ray.remote
        class Owner:
            def make(self) -> list[Any]:
                return [ray.put(np.ones(100_000)), ray.put("small")]

            def pid(self) -> int:
                return os.getpid()

        owner = Owner.remote()
        large, small = get(owner.make.remote())
        assert get(small) == "small"
        os.kill(get(owner.pid.remote()), signal.SIGKILL)
        until(lambda: _is_dead(owner))
        assert get(small) == "small"
        assert get(large).sum() == 100_000.0

    def test_an_actor_that_made_actors_dies_and_theirs_live_while_held(self) -> None:
        @ray.remote
        class Parent:
            def __init__(self) -> None:
                self.children = [Mortal.remote() for _ in range(2)]

            def first(self) -> Any:
                return self.children[0]

            def pids(self) -> list[int]:
                return ray.get([child.pid.remote() for child in self.children], timeout=LIMIT_S)

            def pid(self) -> int:
                return os.getpid()

        parent = Parent.remote()
        held = get(parent.first.remote())
        first, second = get(parent.pids.remote())
        os.kill(get(parent.pid.remote()), signal.SIGKILL)
        until(lambda: not psutil.pid_exists(second))
        assert get(held.pid.remote()) == first


def _is_dead(actor: Any) -> bool:
    try:
        get(actor.__ray_ready__.remote())
    except ray.exceptions.ActorDiedError:
        return True
    return False
