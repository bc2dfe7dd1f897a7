"""Drivers and peers that are killed, that fork, or that find what others left lying."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

import meshray as ray
from meshray import context
from meshray.exceptions import MeshrayError, NodeDiedError
from meshray.ids import new_node
from meshray.local import find_peers, read_record, runtime_folder, store_root
from tests.integration.programs import LIMIT_S, alive, kill, python, run, running, standing_peer, write
from tests.until import until


@ray.remote
def square(number: int) -> int:
    return number * number


@ray.remote
def wait_for(path: Path) -> int:
    path.with_suffix(".begun").touch()
    while not path.exists():
        time.sleep(0.005)
    return os.getpid()


def peer_pid() -> int:
    runtime: Any = context.current_runtime()
    record = read_record(Path(runtime.engine.endpoint._folder))
    assert record is not None
    return record.pid


# -- the peer is killed ------------------------------------------------------------------------------------------------


class TestThePeerIsKilled:
    @pytest.mark.fault(6)
    def test_get_wait_and_remote_say_so_at_once(self, mesh: ModuleType, tmp_path: Path) -> None:
        ref = wait_for.remote(tmp_path / "go on")
        value = ray.put(b"x" * 1_000_000)
        until((tmp_path / "go on.begun").exists)
        told: list[BaseException] = []

        def get_it() -> None:
            try:
                ray.get(ref, timeout=LIMIT_S)
            except BaseException as error:
                told.append(error)

        threads = [threading.Thread(target=get_it) for _ in range(3)]
        for thread in threads:
            thread.start()
        future = ref.future()
        kill(peer_pid())
        with pytest.raises(NodeDiedError, match="peer"):
            ray.get(ref, timeout=LIMIT_S)
        for thread in threads:
            thread.join(LIMIT_S)
        assert [type(error) for error in told] == [NodeDiedError] * 3
        with pytest.raises(NodeDiedError):
            future.result(LIMIT_S)
        with pytest.raises(NodeDiedError):
            ray.wait([ref], timeout=LIMIT_S)
        calls: list[Callable[[], object]] = [
            lambda: square.remote(1),
            lambda: ray.put(1),
            ray.nodes,
            lambda: ray.get_actor("nobody"),
            lambda: ray.remote(threading.local).remote(),
            lambda: ray.cancel(ref),
        ]
        for call in calls:
            with pytest.raises(NodeDiedError):
                call()
        del value

    @pytest.mark.fault(6)
    def test_a_program_that_computes_notices_too_and_begins_anew(self, mesh: ModuleType) -> None:
        runtime: Any = context.current_runtime()
        assert ray.get(square.remote(2), timeout=LIMIT_S) == 4
        kill(peer_pid())
        until(lambda: runtime.engine.broken is not None)  # nobody waits: the background thread sees it
        before = signal.getsignal(signal.SIGINT)
        ray.shutdown()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler is not before
        ray.init(num_cpus=1)
        assert ray.get(square.remote(3), timeout=LIMIT_S) == 9

    @pytest.mark.fault(6)
    def test_workers_end_with_their_peer(self, mesh: ModuleType, tmp_path: Path) -> None:
        refs = [wait_for.remote(tmp_path / name) for name in "ab"]
        until(lambda: all((tmp_path / name).with_suffix(".begun").exists() for name in "ab"))
        peer = psutil.Process(peer_pid())
        below = [child.pid for child in peer.children(recursive=True)]
        assert len(below) >= 3  # a zygote and two workers
        kill(peer.pid)
        until(lambda: not any(alive(pid) for pid in below))
        del refs

    @pytest.mark.parametrize(("by", "reason"), [("meshray stop", "meshray stop"), ("a signal", "SIGTERM")])
    def test_one_that_is_stopped_in_order_says_so(self, tmp_path: Path, by: str, reason: str) -> None:
        with standing_peer() as record:
            ray.init()
            ref = wait_for.remote(tmp_path / "go on")
            large = ray.put(b"x" * 1_000_000)
            until((tmp_path / "go on.begun").exists)
            if by == "a signal":
                os.kill(record.pid, signal.SIGTERM)
            else:
                run(sys.executable, "-m", "meshray.cli", "stop")
            with pytest.raises(NodeDiedError, match=rf"was stopped \({reason}\)"):
                ray.get(ref, timeout=LIMIT_S)
            with pytest.raises(NodeDiedError, match="was stopped"):
                ray.put(1)
            until(lambda: not Path(record.store).exists())
            with pytest.raises(NodeDiedError, match="was stopped"):
                ray.get(large)
            ray.shutdown()

    @pytest.mark.fault(6, 18)
    def test_what_a_killed_standing_peer_leaves_is_swept_at_the_next_start(self) -> None:
        """Where no program was there that would have done so."""
        with standing_peer() as record:
            kill(record.pid)
            until(lambda: not alive(record.pid))
            assert find_peers() == []
            assert Path(record.folder).exists()
            assert Path(record.store).exists()
            ray.init(num_cpus=1)
            assert ray.get(square.remote(3), timeout=LIMIT_S) == 9
            assert not Path(record.folder).exists()
            assert not Path(record.store).exists()
            ray.shutdown()


# -- the private peer ends with its driver -----------------------------------------------------------------------------


class TestThePrivatePeerEnds:
    def test_what_an_interpreter_does_at_its_end_is_not_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It takes seconds on a busy machine; here it would never end."""
        write(
            tmp_path / "sitecustomize.py",
            """
            import atexit, os, sys, time

            if sys.orig_argv[-1].endswith("boot/__main__.py"):
                atexit.register(time.sleep, 10_000)
                open(os.path.dirname(__file__) + "/prepared", "w").close()
            """,
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        ray.init(num_cpus=1)
        assert (tmp_path / "prepared").exists()
        ray.shutdown()
        assert caplog.text == ""

    @pytest.mark.fault(13)
    def test_one_that_is_stuck_is_killed(self, mesh: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
        pid = peer_pid()
        os.kill(pid, signal.SIGSTOP)
        ray.shutdown()
        assert f"the private peer (pid {pid}) did not end in time and was killed" in caplog.text
        assert not alive(pid)


# -- the driver is killed ----------------------------------------------------------------------------------------------

DRIVER = """
    import os, sys, time
    import meshray as ray

    @ray.remote
    def busy():
        time.sleep(600)

    @ray.remote
    class Keeper:
        def pid(self):
            return os.getpid()

    if __name__ == "__main__":
        ray.init()
        value = ray.put(b"x" * 3_000_000)
        keeper = Keeper.options(name="keeper", namespace="test").remote()
        stays = Keeper.options(name="stays", namespace="test", lifetime="detached").remote()
        print("actors", ray.get(keeper.pid.remote()), ray.get(stays.pid.remote()), flush=True)
        refs = [busy.remote() for _ in range(100)]
        print("ready", os.getpid(), flush=True)
        time.sleep(600)
"""


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


class TestTheDriverIsKilled:
    @pytest.mark.fault(7)
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
    def test_a_private_peer_leaves_nothing(self, tmp_path: Path, number: int) -> None:
        with running(*python(write(tmp_path / "driver.py", DRIVER))) as program:
            program.read_until("ready")
            below = [child.pid for child in psutil.Process(program.pid).children(recursive=True)]
            (record,) = find_peers(private=True)
            assert len(below) >= 4
            program.send(number)
            until(lambda: not any(alive(pid) for pid in below))
            until(lambda: not Path(record.folder).exists() and not Path(record.store).exists())

    @pytest.mark.fault(7)
    def test_on_a_standing_peer_its_job_goes_and_detached_actors_stay(self, tmp_path: Path) -> None:
        with standing_peer() as record:
            with running(*python(write(tmp_path / "driver.py", DRIVER))) as program:
                told = program.read_until("ready").split("actors ")[1].split()
                keeper, stays = int(told[0]), int(told[1])
                program.send(signal.SIGKILL)
                program.end(None)
            until(lambda: not alive(keeper))
            assert alive(stays)
            ray.init(namespace="test")
            assert ray.get([square.remote(n) for n in range(10)], timeout=LIMIT_S) == [n * n for n in range(10)]
            with pytest.raises(ValueError, match="keeper"):
                ray.get_actor("keeper")
            assert ray.get(ray.get_actor("stays").pid.remote(), timeout=LIMIT_S) == stays
            until(lambda: not _segments(record.store))
            ray.kill(ray.get_actor("stays"))
            ray.shutdown()


def _segments(store: str) -> set[str]:
    """Segments with values in them; what the present driver has in its pool is none."""
    return {name for name in _names(Path(store)) if name != "lock" and "journal" not in name}


# -- forks -------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestForks:
    @pytest.mark.fault(15)
    def test_a_child_is_told_and_the_parent_goes_on(self, tmp_path: Path) -> None:
        program = """
            import os, sys
            import meshray as ray

            @ray.remote
            def f(x):
                return x + 1

            def child(ref):
                for call in (lambda: ray.get(ref), lambda: f.remote(1), lambda: ray.put(1), lambda: ray.wait([ref])):
                    try:
                        call()
                    except RuntimeError as error:
                        assert "forked" in str(error), error
                    else:
                        os._exit(3)

            ray.init(num_cpus=1)
            ref = f.remote(1)
            assert ray.get(ref, timeout=60) == 2
            for how in ("_exit", "exit", "return"):
                pid = os.fork()
                if not pid:
                    child(ref)
                    if how == "_exit":
                        os._exit(0)
                    if how == "exit":
                        sys.exit(0)
                    break
                _, status = os.waitpid(pid, 0)
                assert status == 0, (how, status)
                assert ray.get(f.remote(2), timeout=60) == 3
            else:
                import multiprocessing
                process = multiprocessing.get_context("fork").Process(target=child, args=(ref,))
                process.start()
                process.join(60)
                assert process.exitcode == 0, process.exitcode
                assert ray.get([f.remote(n) for n in range(100)], timeout=60) == list(range(1, 101))
                print("all is well")
        """
        with running(*python(write(tmp_path / "program.py", program))) as run:
            assert "all is well" in run.end()

    @pytest.mark.fault(15)
    def test_a_child_can_have_a_mesh_of_its_own(self, tmp_path: Path) -> None:
        program = """
            import os
            import meshray as ray

            @ray.remote
            def f(x):
                return x + 1

            ray.init(num_cpus=1)
            assert ray.get(f.remote(1), timeout=60) == 2
            pid = os.fork()
            ray.init(num_cpus=1) if not pid else None
            assert ray.get([f.remote(n) for n in range(20)], timeout=60) == list(range(1, 21))
            if pid:
                assert os.waitpid(pid, 0)[1] == 0
                assert ray.get(f.remote(3), timeout=60) == 4
                print("all is well")
        """
        with running(*python(write(tmp_path / "program.py", program))) as run:
            assert "all is well" in run.end()


# -- few descriptors ---------------------------------------------------------------------------------------------------

LIMITED = """
    import resource, sys
    import meshray as ray

    @ray.remote
    def f(x):
        return x

    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    try:
        ray.init(num_cpus=8)
    except ray.exceptions.MeshrayError as error:
        print(error)
    else:
        assert ray.get([f.remote(n) for n in range(24)], timeout=60) == list(range(24))
        print("all is well")
"""

CROWDED = """
    import resource

    import meshray as ray

    class A:
        def ping(self):
            return 1

    resource.setrlimit(resource.RLIMIT_NOFILE, (43, 43))
    ray.init(num_cpus=2)
    actors = [ray.remote(A).remote() for _ in range(4)]
    pings = [actor.ping.remote() for actor in actors]
    ready, (late,) = ray.wait(pings, num_returns=3, timeout=60)
    input()  # until the warning was seen
    ray.kill(actors[pings.index(ready[0])])
    assert ray.get(late, timeout=60) == 1
    print("all is well")
"""


class TestFewDescriptors:
    @pytest.mark.fault(40)
    def test_with_what_is_never_enough_init_says_so(self, tmp_path: Path) -> None:
        with running(*python(write(tmp_path / "program.py", LIMITED)), "20") as run:
            assert "needs 32 file descriptors at least, and may have 20 (ulimit -n)" in run.end()

    @pytest.mark.fault(40)
    def test_with_few_there_are_few_workers(self, tmp_path: Path) -> None:
        with running(*python(write(tmp_path / "program.py", LIMITED)), "43") as run:
            told = run.end()
        assert "enough for 3 workers at a time, not for 8 CPUs" in told
        assert "all is well" in told

    @pytest.mark.fault(40)
    def test_an_actor_that_waits_for_a_worker_says_that_they_are_what_there_is_too_few_of(self, tmp_path: Path) -> None:
        with running(*python(write(tmp_path / "program.py", CROWDED))) as run:
            run.read_until("all 3 workers that this peer may have are taken (43 file descriptors, by ulimit -n")
            run.say("\n")
            assert "all is well" in run.end()


# -- what the dead left ------------------------------------------------------------------------------------------------


OTHER = """
    import meshray as ray

    ray.init("local", num_cpus=1)
    large = ray.put(b"x" * 1_000_000)
    print("serves")
    input()
    print(len(ray.get(large)))
"""


class TestLeftovers:
    @pytest.mark.fault(18)
    def test_stale_folders_and_a_pid_that_lives_again(self) -> None:
        """A dead peer's folder names a process that is alive: it is not believed, and nobody is harmed."""
        with running("sleep", "600") as innocent:
            node = new_node().hex()
            stale = runtime_folder() / node
            stale.mkdir(mode=0o700)
            store = store_root() / node
            store.mkdir(mode=0o700)
            (store / "left").write_bytes(b"x" * 1000)
            (stale / "lock").touch(0o600)
            (stale / ("0" * 16)).touch(0o600)
            record = {"node": node, "pid": innocent.pid, "name": "old", "private": False, "ready": True}
            record |= {"folder": str(stale), "store": str(store)}
            (stale / "peer.json").write_text(json.dumps(record))
            ray.init(num_cpus=1)
            assert ray.get(square.remote(3), timeout=LIMIT_S) == 9
            ray.shutdown()
            assert not stale.exists()
            assert not store.exists()
            assert alive(innocent.pid)

    @pytest.mark.fault(6, 18)
    @pytest.mark.parametrize("seen", ["before", "while it leaves", "or later"])
    def test_a_killed_peer_that_stood_leaves_nothing_when_its_driver_ends(self, seen: str) -> None:
        with standing_peer() as record:
            ray.init()
            large = ray.put(b"x" * 1_000_000)
            runtime: Any = context.current_runtime()

            def see() -> None:
                until(lambda: runtime.engine.broken is not None)

            kill(record.pid)
            if seen == "before":
                see()
            elif seen == "while it leaves":
                runtime.on_leaving = see
            ray.shutdown()
            assert not Path(record.folder).exists()
            assert not Path(record.store).exists()
            del large

    @pytest.mark.fault(18)
    def test_a_driver_of_a_killed_peer_takes_nothing_from_those_that_live(self, tmp_path: Path) -> None:
        with standing_peer() as record, running(*python(write(tmp_path / "other.py", OTHER))) as other:
            other.read_until("serves")
            (private,) = [each for each in find_peers(private=True) if each.private]
            ray.init(record.folder)
            kill(record.pid)
            ray.shutdown()
            assert not Path(record.folder).exists()
            assert Path(private.folder).exists()
            assert Path(private.store).exists()
            other.say("\n")
            assert "1000000" in other.end()

    @pytest.mark.fault(18)
    def test_a_reference_of_an_ended_mesh_is_refused_in_the_next(self, mesh: ModuleType) -> None:
        ref = square.remote(3)
        large = ray.put(b"x" * 1_000_000)
        ray.shutdown()
        ray.init(num_cpus=1)
        for each in (ref, large):
            with pytest.raises(MeshrayError, match="ended"):
                ray.get(each, timeout=LIMIT_S)
            with pytest.raises(MeshrayError, match="ended"):
                ray.get(square.remote(each), timeout=LIMIT_S)
        assert ray.get(square.remote(4), timeout=LIMIT_S) == 16
