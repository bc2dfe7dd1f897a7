"""Zygote, workers, their ends and what they leave: real forks."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshray.config import Config
from meshray.ids import new_node, new_process
from meshray.peer.children import Children, ProcessEnded
from meshray.peer.logs import Logs
from meshray.peer.zygotes import ForkFailed, Interpreter, WorkerExited, WorkerForked, ZygoteDied, ZygoteEvent, Zygotes
from meshray.wire.forking import Fork
from meshray.wire.messages import LogLine

ROOT = Path(__file__).parents[2]
ENTRIES = "tests.integration.zygote_entries"
DEADLINE_S = 20.0


class Peer:
    """The parts of a peer that this file tests, with a loop."""

    def __init__(self, config: Config | None = None) -> None:
        config = config or Config()
        self.zygotes, self.children, self.logs = Zygotes(config), Children(), Logs(config)
        self.interpreter = Interpreter(sys.executable, sys.prefix)
        self.node = new_node()
        self.events: list[ZygoteEvent] = []
        self.pids: dict[bytes, int] = {}
        self.lines: dict[bytes, list[LogLine]] = {}
        self.ended: dict[bytes, ProcessEnded] = {}
        self.last_words: dict[bytes, str] = {}

    def fork(self, entry: str, settings: bytes = b"", env: dict[str, str] | None = None, **options: Any) -> bytes:
        process_id = new_process(self.node)
        stdout, stderr = self.logs.open(process_id)
        request = Fork(process_id, f"{ENTRIES}:{entry}", settings, env or {})
        interpreter = options.pop("interpreter", self.interpreter)
        self.zygotes.fork(interpreter, request, stdout, stderr, time.monotonic(), **options)
        self._take()
        return process_id

    def do(self, program: str) -> bytes:
        return self.fork("do", program.encode())

    def turn(self, timeout_s: float) -> None:
        ready, _, _ = select.select([self.zygotes.fd, self.children.fd, self.logs.fd], [], [], timeout_s)
        if self.logs.fd in ready:
            self.logs.on_ready()
        if self.children.fd in ready:
            self.children.on_ready(time.monotonic())
        if self.zygotes.fd in ready:
            self.zygotes.on_ready(time.monotonic())
        self.children.expire(time.monotonic())
        self._take()

    def _take(self) -> None:
        for event in self.zygotes.take_events():
            self.events.append(event)
            if isinstance(event, WorkerForked):
                self.pids[event.process_id] = event.pid
                self.children.add_worker(event.process_id, event.pid, event.pidfd)
                self.logs.on_forked(event.process_id, event.pid)
            elif isinstance(event, WorkerExited):
                self.children.on_exit_code(event.process_id, event.code)
            elif isinstance(event, ForkFailed):
                self.logs.close(event.process_id)
            else:
                self.children.on_zygote_died(event.workers)
        for ended in self.children.take_ended():
            self.ended[ended.process_id] = ended
            self.last_words[ended.process_id] = self.logs.close(ended.process_id)
        for process_id, lines in self.logs.take_lines().items():
            self.lines.setdefault(process_id, []).extend(lines)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"in vain: {self.events} {self.lines} {self.ended}"
            self.turn(0.05)

    def wait_end(self, process_id: bytes) -> ProcessEnded:
        self.until(lambda: process_id in self.ended)
        return self.ended[process_id]

    def texts(self, process_id: bytes) -> list[str]:
        return [line.text for line in self.lines.get(process_id, [])]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def close(self) -> None:
        self.zygotes.close(5.0)
        self.children.close()
        self.logs.close_all()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def is_gone(pid: int) -> bool:
    """Whether there is no such process, or only its zombie."""
    return _state_of(pid) in "ZX"


def _state_of(pid: int) -> str:
    """One letter; X when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while left := [pid for pid in pids if not is_gone(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.01)  # between two looks


# -- birth -------------------------------------------------------------------------------------------------------------


def test_worker_from_inside(peer: Peer) -> None:
    process_id = peer.fork("report", b"of the peer", {"OF_THE_REQUEST": "here"})
    assert peer.wait_end(process_id).exit_text == "exit code 0"
    [line] = peer.lines[process_id]
    facts = json.loads(line.text)
    assert facts == {
        "settings": "of the peer",
        "pid": peer.pids[process_id],
        "leads_session": True,
        "fds": [0, 1, 2, 3],  # 3 is the listing itself
        "stdin": "",
        "numpy": False,
        "preloaded": ["cloudpickle", "msgspec"],
        "threads": 1,
        "frozen": True,
        "sigint_default": True,
        "sigterm_default": True,
        "variable": "here",
        "blas": "1",
        "process": process_id.hex(),
        "executable": sys.executable,
    }
    assert (line.pid, line.stderr) == (peer.pids[process_id], False)


def test_many_at_once(peer: Peer) -> None:
    """More requests than the socket's buffer takes; each is answered, none twice."""
    ids = [peer.fork("do", b"#" + bytes(40_000)) for _ in range(20)]
    assert peer.zygotes.waits_for_room
    peer.until(lambda: len(peer.ended) == len(ids))
    assert {ended.exit_text for ended in peer.ended.values()} == {"exit code 1"}  # a null byte is no program
    assert len(peer.of(WorkerForked)) == len(peer.of(WorkerExited)) == len(ids)
    assert not peer.zygotes.waits_for_room


def test_random_numbers_differ(peer: Peer) -> None:
    program = "import random; print(random.random())"
    one, two = peer.do(program), peer.do(program)
    peer.wait_end(one)
    peer.wait_end(two)
    assert peer.texts(one) != peer.texts(two)


def test_request_that_is_too_long_fails_by_itself(peer: Peer) -> None:
    process_id = peer.fork("do", bytes(200_000))
    [failed] = peer.of(ForkFailed)
    assert failed.process_id == process_id
    assert "exceeds" in failed.reason


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(1, 2)
@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("", "exit code 0"),
        ("import sys; sys.exit()", "exit code 0"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import sys; sys.exit('in words')", "exit code 1"),
        ("import os; os._exit(7)", "exit code 7"),
        ("1/0", "exit code 1"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9 (SIGKILL)"),
        ("import ctypes; ctypes.string_at(8)", "killed by signal 11 (SIGSEGV)"),
    ],
)
def test_how_it_ended(peer: Peer, program: str, text: str) -> None:
    process_id = peer.do(program)
    ended = peer.wait_end(process_id)
    assert ended == (process_id, peer.pids[process_id], text, ended.code, True)
    words = peer.last_words[process_id]
    for cause, said in (("in words", "in words"), ("1/0", "ZeroDivisionError"), ("ctypes", "Segmentation fault")):
        assert (said in words) == (cause in program)


def test_kill_reaches_that_process_only_once(peer: Peer) -> None:
    process_id = peer.do("e = __import__('tests.integration.zygote_entries', fromlist=['x']); e.wait_for_ever()")
    peer.until(lambda: process_id in peer.pids)
    assert peer.children.kill(process_id)
    assert peer.wait_end(process_id).exit_text == "killed by signal 9 (SIGKILL)"
    assert not peer.children.kill(process_id)
    assert process_id not in peer.children
    assert peer.children.pid_of(process_id) is None


@pytest.mark.fault(14)
def test_children_of_a_worker_die_with_it(peer: Peer) -> None:
    """Those in its group, those in sessions of their own, and theirs."""
    process_id = peer.fork("do", f"import {ENTRIES} as e; e.leave_children()".encode())
    peer.until(lambda: peer.texts(process_id))
    pids = json.loads(peer.texts(process_id)[0])
    assert not any(map(is_gone, pids))
    peer.children.kill(process_id)
    peer.wait_end(process_id)
    wait_gone(pids)


@pytest.mark.fault(14)
@pytest.mark.parametrize("below", [False, True], ids=["of the worker", "of a child of it"])
@pytest.mark.parametrize("how", ["the worker is killed", "the zygote ends"])
def test_a_resource_tracker_cleans_up_before_it_ends(peer: Peer, how: str, below: bool) -> None:
    """The processes that also hold its pipe die first, and it takes the worker's semaphores away."""
    process_id = peer.fork("do", f"import {ENTRIES} as e; e.leave_semaphore(below={below})".encode())
    peer.until(lambda: peer.texts(process_id))
    told = json.loads(peer.texts(process_id)[0])
    semaphore = Path(f"/dev/shm/sem.{told['semaphore']}")
    assert semaphore.exists()
    assert not any(map(is_gone, [told["tracker"], *told["others"]]))
    if how == "the worker is killed":
        peer.children.kill(process_id)
        assert peer.wait_end(process_id).exit_text == "killed by signal 9 (SIGKILL)"
    else:
        peer.zygotes.close(5.0)
    wait_gone([told["tracker"], *told["others"]])
    assert not semaphore.exists()


@pytest.mark.fault(14)
@pytest.mark.parametrize("how", ["the worker is killed", "the zygote ends"])
def test_a_resource_tracker_that_is_stopped_cleans_up_as_well(peer: Peer, how: str) -> None:
    process_id = peer.fork("do", f"import {ENTRIES} as e; e.leave_semaphore()".encode())
    peer.until(lambda: peer.texts(process_id))
    told = json.loads(peer.texts(process_id)[0])
    os.kill(told["tracker"], signal.SIGSTOP)
    peer.until(lambda: _state_of(told["tracker"]) == "T")
    if how == "the worker is killed":
        peer.children.kill(process_id)
        peer.wait_end(process_id)
    else:
        peer.zygotes.close(5.0)
    wait_gone([told["tracker"], *told["others"]])
    assert not Path(f"/dev/shm/sem.{told['semaphore']}").exists()


@pytest.mark.fault(14)
def test_a_resource_tracker_whose_pipe_stays_open_is_killed_all_the_same(peer: Peer) -> None:
    """A daemon holds it, which is nobody's."""
    process_id = peer.fork("do", f"import {ENTRIES} as e; e.leave_semaphore(daemon=True)".encode())
    peer.until(lambda: peer.texts(process_id))
    told = json.loads(peer.texts(process_id)[0])
    peer.children.kill(process_id)
    peer.wait_end(process_id)
    wait_gone([told["tracker"]])
    [daemon] = told["others"]
    assert not is_gone(daemon)
    os.kill(daemon, signal.SIGKILL)
    Path(f"/dev/shm/sem.{told['semaphore']}").unlink()


@pytest.mark.fault(14)
def test_daemon_of_a_living_worker_is_left_alone(peer: Peer) -> None:
    daemon = peer.do(
        "import subprocess, sys, signal\n"
        "program = '''import subprocess, sys\n"
        'p = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)\n'
        "print(p.pid, flush=True)'''\n"
        "subprocess.run([sys.executable, '-c', program])\n"
        "print('ran', flush=True)\n"
        "signal.pause()\n"
    )
    peer.until(lambda: "ran" in peer.texts(daemon))
    pid = int(peer.texts(daemon)[0])
    other = peer.do("")
    peer.wait_end(other)  # the zygote has looked for orphans since
    peer.wait_end(peer.do(""))
    assert not is_gone(pid)
    peer.children.kill(daemon)
    peer.wait_end(daemon)
    wait_gone([pid])


def test_driver_is_watched(peer: Peer) -> None:
    driver = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process_id = new_process(peer.node)
    peer.children.add_driver(process_id, driver.pid)
    peer.children.add_driver(process_id, driver.pid)
    assert len(peer.children) == 1
    driver.communicate(b"\n")
    assert peer.wait_end(process_id) == (process_id, driver.pid, "ended", None, False)
    with pytest.raises(ProcessLookupError):
        peer.children.add_driver(new_process(peer.node), driver.pid)


def test_released_driver_is_watched_no_more(peer: Peer) -> None:
    process_id = new_process(peer.node)
    peer.children.add_driver(process_id, os.getpid())
    peer.children.release(process_id)
    assert len(peer.children) == 0


# -- ends of zygotes ---------------------------------------------------------------------------------------------------


def zygote_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.fault(14)
def test_zygote_killed(peer: Peer) -> None:
    """Its workers and theirs go with it; the next request gets another."""
    process_id = peer.fork("do", f"import {ENTRIES} as e; e.leave_children()".encode())
    peer.until(lambda: peer.texts(process_id))
    os.kill(zygote_of(peer.pids[process_id]), signal.SIGKILL)
    ended = peer.wait_end(process_id)
    assert (ended.exit_text, ended.code) == ("gone, exit status unknown", None)
    wait_gone(json.loads(peer.texts(process_id)[0]))
    [died] = peer.of(ZygoteDied)
    assert died.reason.startswith("killed by signal 9 (SIGKILL)")
    assert died.workers == [process_id]
    assert peer.wait_end(peer.do("")).exit_text == "exit code 0"


def test_zygote_that_cannot_start(peer: Peer) -> None:
    wrong = Interpreter("/nonexistent/python", "/nonexistent")
    peer.fork("do", interpreter=wrong)
    [failed] = peer.of(ForkFailed)
    assert "cannot start /nonexistent/python" in failed.reason


@pytest.mark.fault(4)
def test_budget_of_zygotes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An interpreter that dies again and again is reported with its last words, and left alone for a while."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no module named meshray >&2\nexit 5\n")
    python.chmod(0o700)
    broken = Interpreter(str(python), str(tmp_path))
    peer = Peer(msgspec.structs.replace(Config(), start_crashes_max=2))
    for deaths in (1, 2):
        peer.fork("do", interpreter=broken)
        peer.until(lambda deaths=deaths: len(peer.of(ForkFailed)) >= deaths)  # type: ignore[misc]
    peer.fork("do", interpreter=broken)
    failed = peer.of(ForkFailed)[-1]
    assert "died 2 times" in failed.reason
    assert "exit code 5\nno module named meshray" in failed.reason
    peer.close()
    assert "no module named meshray" in capfd.readouterr().err


def test_another_interpreter_has_its_own_zygote(peer: Peer, tmp_path: Path) -> None:
    """A driver in another virtual environment, which finds meshray by its `sys.path`."""
    link = tmp_path / "bin" / "python"
    link.parent.mkdir()
    link.symlink_to(os.path.realpath(sys.executable))
    (tmp_path / "pyvenv.cfg").write_text(f"home = {os.path.dirname(os.path.realpath(sys.executable))}\n")
    other = Interpreter(str(link), str(tmp_path))
    theirs = peer.fork("report", interpreter=other, path=[str(ROOT), *filter(None, sys.path)])
    ours = peer.fork("report")
    peer.wait_end(theirs)
    peer.wait_end(ours)
    assert json.loads(peer.texts(theirs)[0])["executable"] == str(link)
    assert json.loads(peer.texts(ours)[0])["executable"] == sys.executable


def test_close_ends_everything(peer: Peer) -> None:
    process_id = peer.fork("do", f"import {ENTRIES} as e; e.leave_children()".encode())
    peer.until(lambda: peer.texts(process_id))
    pids = [peer.pids[process_id], *json.loads(peer.texts(process_id)[0])]
    peer.zygotes.close(5.0)
    assert all(map(is_gone, pids))


@pytest.mark.fault(14)
@pytest.mark.parametrize("how", ["killed", "ended"])
def test_peer_with_a_forked_zygote(how: str) -> None:
    """The peer forks itself into a zygote; when it is killed, nothing is left, whatever the workers had started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.zygote_peer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        told = json.loads(process.stdout.readline())
        pids = [told["zygote"], *told["workers"], *json.loads(told["said"])]
        assert len(told["workers"]) == 4
        if how == "killed":
            process.kill()
        else:
            process.stdin.close()
        process.wait(DEADLINE_S)
    wait_gone(pids)


# -- output ------------------------------------------------------------------------------------------------------------


def test_lines_carry_the_name_of_who_prints(peer: Peer) -> None:
    process_id = peer.fork("named")
    peer.wait_end(process_id)
    pid = peer.pids[process_id]
    of_stdout = [line for line in peer.lines[process_id] if not line.stderr]
    assert of_stdout == [
        LogLine("first", pid, "one"),
        LogLine("second", pid, "without an end"),
    ]
    assert [line for line in peer.lines[process_id] if line.stderr] == [LogLine("second", pid, "two", True)]
    assert peer.last_words[process_id] == "two"


def test_what_c_code_printed_is_not_lost(peer: Peer) -> None:
    process_id = peer.do("import ctypes; ctypes.CDLL(None).puts(b'from C')")
    peer.wait_end(process_id)
    assert peer.texts(process_id) == ["from C"]


def test_a_grandchild_that_holds_the_pipe_stops_nobody(peer: Peer) -> None:
    """It left the worker's session and carries no mark, so it lives on, with both streams open."""
    process_id = peer.do(
        "import os, subprocess, sys\n"
        "env = {k: v for k, v in os.environ.items() if k != 'MESHRAY_PROCESS'}\n"
        "p = subprocess.Popen(['sleep', '1000'], start_new_session=True, env=env)\n"
        "print(p.pid)\n"
        "print('last words', file=sys.stderr)\n"
    )
    peer.wait_end(process_id)
    assert peer.last_words[process_id] == "last words"
    pid = int(peer.texts(process_id)[0])
    assert not is_gone(pid)
    os.kill(pid, signal.SIGKILL)
