"""Starting a peer process: what it is told, what it answers, and what is left when it does not."""

from __future__ import annotations

import inspect
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from meshray import launch, local
from meshray.config import DEFAULT
from meshray.ids import new_node
from meshray.interrupts import HeldInterrupts
from meshray.launch import PeerSettings, PeerStartError
from meshray.peer.service import END_TIMEOUT_S
from meshray.transport.discovery import Discovery
from meshray.transport.endpoint import CLOSE_LINGER_MS
from meshray.transport.mesh_options import MESH_LINGER_MS

RECORD = {"node": "00" * 8, "pid": 1, "name": "n", "private": True, "ready": True, "folder": "/nowhere/node"}

ANSWER = f"""
import json, os, sys
os.read(0, 65536)
record = {RECORD!r} | {{"pid": os.getpid()}}
os.write(3, b"\\x1e" + json.dumps({{"type": "ready", "record": record, "warnings": ["too small"]}}).encode() + b"\\n")
"""


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = Path("/tmp") / f"mr-{os.getpid()}-{new_node().hex()[:6]}"
    monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(folder))
    yield folder
    local.remove_folder(folder)


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program in the place of the peer's."""

    def replace(program: str) -> None:
        path = tmp_path / "boot.py"
        path.write_text(program)
        monkeypatch.setattr(launch, "_BOOT", path)

    return replace


def test_a_peer_that_answers_is_there(boot: Callable[[str], None]) -> None:
    boot(
        "import sys; sys.stderr.write('note\\n')\n" + ANSWER + "sys.stdin.close(); os.read(os.open('/dev/null', 0), 1)"
    )
    started = launch.start_peer(PeerSettings())
    assert started.record.pid == started.pid
    assert started.node == bytes(8)
    assert started.folder == Path("/nowhere/node")
    assert started.warnings == ["note", "too small"]
    assert started.wait_ended(10)
    assert started.exit_status == 0


def test_it_leads_a_session_and_is_killed(boot: Callable[[str], None]) -> None:
    boot(ANSWER + "import signal; signal.pause()")
    started = launch.start_peer(PeerSettings())
    assert os.getsid(started.pid) == started.pid
    assert not started.wait_ended(0)
    started.kill()
    assert started.exit_status is not None
    assert launch.describe_exit(started.exit_status) == "killed by signal 9 (SIGKILL)"
    started.kill()


def test_what_a_killed_peer_leaves_is_removed(boot: Callable[[str], None], tmp_path: Path) -> None:
    folder = tmp_path / str(RECORD["node"])
    folder.mkdir()
    (folder / "lock").touch()
    boot(ANSWER.replace("/nowhere/node", str(folder)) + "import signal; signal.pause()")
    started = launch.start_private(PeerSettings())
    started.kill()
    assert not folder.exists()


def test_one_that_somebody_else_has_reaped_has_ended(boot: Callable[[str], None]) -> None:
    boot(ANSWER)
    started = launch.start_peer(PeerSettings())
    os.waitpid(started.pid, 0)
    assert started.wait_ended(10)


def test_a_refusal_is_told_in_its_words(boot: Callable[[str], None]) -> None:
    boot('import os; os.write(3, b\'\\x1e{"type":"refused","error":"no room"}\\n\')')
    with pytest.raises(PeerStartError, match=r"^no room$"):
        launch.start_peer(PeerSettings())


def test_a_crash_is_told_with_its_last_words(boot: Callable[[str], None]) -> None:
    boot("import nothing_of_that_name")
    with pytest.raises(PeerStartError, match=r"exit code 1(.|\n)*No module named 'nothing_of_that_name'"):
        launch.start_peer(PeerSettings())


def test_a_signal_is_told(boot: Callable[[str], None]) -> None:
    boot("import os; os.kill(os.getpid(), 11)")
    with pytest.raises(PeerStartError, match="SIGSEGV"):
        launch.start_peer(PeerSettings())


def test_one_that_is_late_is_killed(boot: Callable[[str], None]) -> None:
    boot("import os, signal; os.write(2, b'still here'); signal.pause()")
    starting = launch.spawn_peer(PeerSettings())
    with pytest.raises(PeerStartError, match="in time"):
        starting.wait(0.2)
    with pytest.raises(ProcessLookupError):
        os.kill(starting.pid, 0)


def test_no_descriptor_stays(boot: Callable[[str], None]) -> None:
    before = os.listdir("/proc/self/fd")
    for program in (ANSWER, "pass"):
        boot(program)
        try:
            launch.start_peer(PeerSettings()).wait_ended(10)
        except PeerStartError:
            continue
    assert os.listdir("/proc/self/fd") == before


def test_settings_too_large_are_refused() -> None:
    with pytest.raises(PeerStartError, match="60000"):
        launch.spawn_peer(PeerSettings(labels={"a": "x" * 70_000}))


def test_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(PeerStartError, match="/nowhere/python: No such file"):
        launch.spawn_peer(PeerSettings())


def test_settings_arrive_and_the_package_is_this_one_whatever_the_folder(tmp_path: Path) -> None:
    """The entry itself, up to the point where it becomes a peer: in a folder with modules that would shadow others."""
    (tmp_path / "types.py").write_text("raise SystemExit('shadowed')")
    (tmp_path / "meshray").mkdir()
    (tmp_path / "meshray" / "__init__.py").write_text("raise SystemExit('another meshray')")
    probe = (
        "import runpy, sys, types\n"
        "process = types.ModuleType('meshray.boot.process')\n"
        "def main(settings):\n"
        "    import json, meshray, msgspec\n"
        "    from meshray.launch import PeerSettings\n"
        "    told = msgspec.msgpack.decode(settings, type=PeerSettings)\n"
        "    print(json.dumps([meshray.__file__, told.name, told.node.hex(), sys.stdin.read(), sys.path]))\n"
        "process.main, process.end = main, sys.exit\n"
        "sys.modules['meshray.boot.process'] = process\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    settings = PeerSettings(name="here", node=b"\x01" * 8)
    done = subprocess.run(
        [sys.executable, "-P", "-c", probe, str(launch._BOOT)],
        input=launch.encode_settings(settings),
        capture_output=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    file, name, node, rest, path = json.loads(done.stdout)
    assert file == str(Path(launch.__file__).with_name("__init__.py"))
    assert (name, node, rest) == ("here", "01" * 8, "")
    assert str(tmp_path) not in path


def test_a_node_is_drawn() -> None:
    data = launch.encode_settings(PeerSettings())
    settings = msgspec.msgpack.decode(data[4 + int.from_bytes(data[:4], "big") :], type=PeerSettings)
    assert len(settings.node) == 8
    assert not settings.private


@pytest.mark.fault(40)
def test_too_few_descriptors_are_named_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda what: (20, launch.DESCRIPTORS_MIN - 1))
    with pytest.raises(launch.TooFewDescriptorsError, match=r"a peer needs 32 .* may have 31 \(ulimit -n\)"):
        launch.spawn_peer(PeerSettings())


def test_a_limit_that_is_none_is_enough() -> None:
    launch.check_descriptors("a peer", resource.RLIM_INFINITY)
    launch.check_descriptors("a peer", launch.DESCRIPTORS_MIN)


# -- interrupts --------------------------------------------------------------------------------------------------------


def test_a_second_interrupt_while_the_first_is_answered_adds_no_traceback(boot: Callable[[str], None]) -> None:
    boot("import time; time.sleep(600)")
    starting = launch.spawn_peer(PeerSettings())

    def interrupted() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            with HeldInterrupts(error):
                signal.raise_signal(signal.SIGINT)
                starting.abandon(error)
            raise

    with pytest.raises(KeyboardInterrupt) as told:
        interrupted()
    assert told.value.__context__ is None
    assert launch._reap(starting.pid, 0) == 0  # it was reaped
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_was_held_comes_at_the_end() -> None:
    reached = []

    def interrupted() -> None:
        with HeldInterrupts():
            signal.raise_signal(signal.SIGINT)
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached


def test_a_driver_has_more_patience_than_the_parts_of_a_peers_end_may_take() -> None:
    mdns_s = inspect.signature(Discovery.close).parameters["timeout_s"].default
    links_s = (CLOSE_LINGER_MS + MESH_LINGER_MS) / 1000
    assert DEFAULT.peer_end_timeout_s > END_TIMEOUT_S + mdns_s + links_s
