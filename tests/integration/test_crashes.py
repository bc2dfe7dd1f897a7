"""Workers that die in a task, stop, or leave children; what comes to their sockets that is no message."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

import meshray as ray
from meshray import context
from meshray.exceptions import TaskError, WorkerCrashedError
from meshray.ids import new_process
from meshray.wire.codec import encode
from meshray.wire.messages import Results, Wake
from tests.until import until

LIMIT_S = 30.0


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def note(path: Path) -> None:
    """One more line: how often something ran, told over the deaths of workers."""
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")


@ray.remote
def die_until(path: Path, times: int, how: str) -> str:
    """Die in one of several ways, the first `times` times; the line was written before."""
    note(path)
    if lines(path) > times:
        return "alive"
    print("the last words", file=sys.stderr, flush=True)
    if how == "exit":
        os._exit(7)
    if how == "sys.exit":
        sys.exit(9)
    number = getattr(signal, how)
    signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
    os.kill(os.getpid(), number)
    time.sleep(LIMIT_S)
    return "it did not die"


@ray.remote
def square(number: int) -> int:
    return number * number


# -- one task's crash --------------------------------------------------------------------------------------------------


@pytest.mark.fault(1, 2)
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "exit", "sys.exit"])
def test_a_task_whose_worker_dies_runs_again(shared_mesh: ModuleType, tmp_path: Path, how: str) -> None:
    ref = die_until.remote(tmp_path / "runs", 2, how)
    assert ray.get(ref, timeout=LIMIT_S) == "alive"
    assert lines(tmp_path / "runs") == 3


@pytest.mark.fault(1, 2)
@pytest.mark.parametrize(
    ("how", "said"),
    [("SIGKILL", "SIGKILL"), ("SIGSEGV", "SIGSEGV"), ("SIGABRT", "SIGABRT"), ("exit", "7"), ("sys.exit", "9")],
)
def test_when_retries_are_used_up_the_error_says_how_it_died(
    shared_mesh: ModuleType, tmp_path: Path, how: str, said: str
) -> None:
    ref = die_until.options(max_retries=1, name="the victim").remote(tmp_path / "runs", 100, how)
    with pytest.raises(WorkerCrashedError) as caught:
        ray.get(ref, timeout=LIMIT_S)
    assert lines(tmp_path / "runs") == 2
    text = str(caught.value)
    assert said in text
    assert "the last words" in text
    assert "the victim" in text
    with pytest.raises(WorkerCrashedError):
        ray.get(ref, timeout=LIMIT_S)
    assert ray.get(square.remote(3), timeout=LIMIT_S) == 9


@pytest.mark.fault(1)
def test_it_is_tried_three_times_more_by_default(shared_mesh: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(WorkerCrashedError):
        ray.get(die_until.remote(tmp_path / "runs", 100, "SIGKILL"), timeout=LIMIT_S)
    assert lines(tmp_path / "runs") == 4


@ray.remote(max_retries=0)
def work(number: int, size: int, victim: int, path: Path) -> tuple[int, bytes]:
    if number == victim:
        note(path)
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    return number, bytes([number]) * size


@pytest.mark.fault(1, 2)
@pytest.mark.parametrize("size", [10, 20_000, 300_000], ids=["small", "more than the journal holds", "in the store"])
def test_64_in_flight_of_which_the_40th_segfaults(shared_mesh: ModuleType, tmp_path: Path, size: int) -> None:
    """One error and 63 values, whatever was finished, begun or queued behind it."""
    warm = [work.remote(n, 1, -1, tmp_path) for n in range(200)]  # its mean is known: many are pushed ahead
    assert [n for n, _ in ray.get(warm, timeout=LIMIT_S)] == list(range(200))
    for _ in range(5):
        refs = [work.remote(n, size, 39, tmp_path / "dead") for n in range(64)]
        for number, ref in enumerate(refs):
            if number == 39:
                with pytest.raises(WorkerCrashedError, match="SIGSEGV"):
                    ray.get(ref, timeout=LIMIT_S)
            else:
                assert ray.get(ref, timeout=LIMIT_S) == (number, bytes([number]) * size)
    assert lines(tmp_path / "dead") == 5


@ray.remote(max_retries=2)
def chain(depth: int, path: Path) -> int:
    """A task that waits for another one, and is killed the first time it runs."""
    note(path / str(depth))
    ref = chain.remote(depth - 1, path) if depth else None
    if lines(path / str(depth)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1 + ray.get(ref, timeout=LIMIT_S) if ref is not None else 0


@pytest.mark.fault(1, 8)
def test_nested_tasks_of_which_each_dies_once(shared_mesh: ModuleType, tmp_path: Path) -> None:
    assert ray.get(chain.remote(2, tmp_path), timeout=LIMIT_S) == 2


# -- workers that own references ---------------------------------------------------------------------------------------


@ray.remote(max_retries=0)
def make_and_die(box: Any, die: bool) -> list[Any]:
    """Own references: one to a value, one to a large value, one to a task that is still to run, and hand them on."""
    refs = [ray.put("small"), ray.put(b"large" * 100_000), square.remote(12)]
    ray.get(refs[2], timeout=LIMIT_S)
    ray.get(box.keep.remote(refs), timeout=LIMIT_S)
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
    return refs


@ray.remote(num_cpus=0)
class Box:
    def __init__(self) -> None:
        self.refs: list[Any] = []

    def keep(self, refs: list[Any]) -> None:
        self.refs = refs

    def values(self) -> list[Any]:
        values: list[Any] = ray.get(self.refs, timeout=LIMIT_S)
        return values

    def take(self) -> list[Any]:
        return self.refs


@pytest.mark.fault(8)
@pytest.mark.parametrize("die", [False, True])
def test_what_a_dead_worker_had_promoted_is_not_lost(shared_mesh: ModuleType, die: bool) -> None:
    box = Box.remote()
    ref = make_and_die.remote(box, die)
    if die:
        with pytest.raises(WorkerCrashedError):
            ray.get(ref, timeout=LIMIT_S)
    else:
        assert len(ray.get(ref, timeout=LIMIT_S)) == 3
    expected = ["small", b"large" * 100_000, 144]
    assert ray.get(box.values.remote(), timeout=LIMIT_S) == expected
    assert ray.get(ray.get(box.take.remote(), timeout=LIMIT_S), timeout=LIMIT_S) == expected


@ray.remote(max_retries=0)
def pend_and_die(box: Any, path: Path) -> None:
    """Hand on a reference to a task that cannot be finished when this process dies."""
    ref = until_told.remote(path)
    ray.get(box.keep.remote([ref]), timeout=LIMIT_S)
    os.kill(os.getpid(), signal.SIGKILL)


@ray.remote
def until_told(path: Path) -> str:
    while not path.exists():
        time.sleep(0.01)
    return "done"


@pytest.mark.fault(8)
def test_a_pending_result_of_a_dead_worker_gives_a_value_or_an_error_and_no_hang(
    shared_mesh: ModuleType, tmp_path: Path
) -> None:
    box = Box.remote()
    with pytest.raises(WorkerCrashedError):
        ray.get(pend_and_die.remote(box, tmp_path / "go on"), timeout=LIMIT_S)
    (tmp_path / "go on").touch()
    try:
        outcome = ray.get(box.values.remote(), timeout=LIMIT_S)
    except TaskError as error:
        outcome = str(error)
    assert outcome == ["done"] or "OwnerDied" in outcome or "lost" in outcome.lower()


# -- stopped workers ---------------------------------------------------------------------------------------------------


@ray.remote
def tell_and_wait(path: Path) -> int:
    (path / "pid").write_text(str(os.getpid()))
    while not (path / "go on").exists():
        time.sleep(0.005)
    return os.getpid()


def pid_in(path: Path) -> int:
    until(lambda: (path / "pid").exists() and (path / "pid").read_text())
    return int((path / "pid").read_text())


@pytest.mark.fault(10)
def test_a_stopped_worker_is_only_slow(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ref = tell_and_wait.remote(tmp_path)
    pid = pid_in(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    (tmp_path / "go on").touch()
    assert ray.get([square.remote(n) for n in range(20)], timeout=LIMIT_S) == [n * n for n in range(20)]
    assert ray.wait([ref], timeout=0.05) == ([], [ref])
    os.kill(pid, signal.SIGCONT)
    assert ray.get(ref, timeout=LIMIT_S) == pid


@pytest.mark.fault(10)
def test_a_stopped_worker_can_be_cancelled_by_force(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ref = tell_and_wait.remote(tmp_path)
    pid = pid_in(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    ray.cancel(ref, force=True)
    with pytest.raises((ray.exceptions.TaskCancelledError, WorkerCrashedError)):
        ray.get(ref, timeout=LIMIT_S)
    until(lambda: gone(pid))


# -- children of workers -----------------------------------------------------------------------------------------------


@ray.remote(max_retries=0)
def start_child(path: Path, die: bool) -> int:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (path / "child").write_text(str(child.pid))
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@pytest.mark.fault(14)
def test_children_of_a_worker_die_with_it(shared_mesh: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(WorkerCrashedError):
        ray.get(start_child.remote(tmp_path, True), timeout=LIMIT_S)
    child = int((tmp_path / "child").read_text())
    until(lambda: gone(child))


@pytest.mark.fault(14)
def test_a_child_may_outlive_its_task_but_not_its_worker(shared_mesh: ModuleType, tmp_path: Path) -> None:
    worker = ray.get(start_child.remote(tmp_path, False), timeout=LIMIT_S)
    child = int((tmp_path / "child").read_text())
    assert not gone(child)
    os.kill(worker, signal.SIGKILL)
    until(lambda: gone(child))


@ray.remote(max_retries=0)
def fork_and_return(path: Path) -> str:
    """The child of a plain fork comes back out of the user's function: it must not answer in its parent's name."""
    pid = os.fork()
    if not pid:
        return "the child"
    (path / "child").write_text(str(pid))
    return "the parent"


@pytest.mark.fault(14, 15)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_task_that_forks_and_whose_child_returns(shared_mesh: ModuleType, tmp_path: Path) -> None:
    assert ray.get(fork_and_return.remote(tmp_path), timeout=LIMIT_S) == "the parent"
    assert ray.get([square.remote(n) for n in range(50)], timeout=LIMIT_S) == [n * n for n in range(50)]
    until(lambda: gone(int((tmp_path / "child").read_text())))


# -- modules -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(50)
def test_a_module_that_the_worker_cannot_import(
    shared_mesh: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when the driver began, and is found by reference: the error names it and the host."""
    (tmp_path / "only_here.py").write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here  # type: ignore[import-not-found]

    ref = ray.remote(max_retries=0)(only_here.f).remote()
    with pytest.raises(TaskError) as caught:
        ray.get(ref, timeout=LIMIT_S)
    text = str(caught.value)
    assert "only_here" in text
    assert os.uname().nodename in text
    assert ray.get(square.remote(2), timeout=LIMIT_S) == 4
    del sys.modules["only_here"]


# -- garbage on the wire -----------------------------------------------------------------------------------------------

GARBAGE = [
    b"",
    b"x" * 10,
    bytes(100),
    b"\x01\0\0\0\xc1",
    os.urandom(1000),
    b"\xff" * 5000,
    b"\x01\0\0\0a" * 500,
]


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def say(path: Path, speech: bytes) -> None:
    """Connect, speak, hang up: the other side may hang up first."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        try:
            connection.sendall(speech)
        except (BrokenPipeError, ConnectionResetError):
            return


def sockets(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_socket()]


@pytest.mark.fault(47)
def test_garbage_at_every_socket_changes_nothing(shared_mesh: ModuleType) -> None:
    """Corrupt frames, forged envelopes, and valid messages of strangers or in the wrong state."""
    runtime: Any = context.current_runtime()
    folder = Path(runtime.engine.endpoint._folder)
    assert ray.get([square.remote(n) for n in range(10)], timeout=LIMIT_S) == [n * n for n in range(10)]
    node = runtime.engine.peer[:8]
    for path in sockets(folder):
        receiver = node + bytes.fromhex(path.name)
        for identity in (b"stranger" * 2, new_process(node), runtime.engine.peer[:8] + b"\x00" * 7 + b"\x01"):
            greeting = b"meshray1" + receiver + identity
            for speech in (*GARBAGE, *(greeting + garbage for garbage in GARBAGE)):
                say(path, speech)
            for message in (Wake(), Results(1, [], 0)):
                data = encode(message)
                say(path, greeting + frame(data))
                say(path, greeting + frame(data[:-1]) + frame(data))
                say(path, b"meshray1" + receiver[:-1] + b"?" + identity + frame(data))
            say(path, greeting + frame(b"\x91" * 10_000))
    assert ray.get([square.remote(n) for n in range(10)], timeout=LIMIT_S) == [n * n for n in range(10)]


@pytest.mark.fault(47)
def test_silent_and_speechless_connections(shared_mesh: ModuleType) -> None:
    """Connections that say nothing, or no ZMTP at all."""
    runtime: Any = context.current_runtime()
    opened = []
    for path in sockets(Path(runtime.engine.endpoint._folder)):
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(500)):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(path))
            try:
                connection.send(data)
            except OSError:
                pass  # refused already, and rightly
            opened.append(connection)
    try:
        assert ray.get([square.remote(n) for n in range(10)], timeout=LIMIT_S) == [n * n for n in range(10)]
    finally:
        for connection in opened:
            connection.close()
