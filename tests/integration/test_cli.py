"""The command line against real peers."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import meshray
from meshray import crashes, launch
from meshray.cli import stopping
from meshray.cli.commands import meshray as command
from meshray.ids import new_node
from meshray.launch import PeerSettings
from meshray.local import PeerRecord, find_peers, is_claimed
from tests.integration.programs import python, running, write
from tests.until import until

LIMIT_S = 60.0


def run(*words: str, code: int = 0) -> str:
    """Run the command; its output, of which nothing is a traceback. Nothing here is about the network."""
    if words[:1] == ("start",):
        words = ("start", "--local", *words[1:])
    done = subprocess.run(
        [sys.executable, "-m", "meshray.cli", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def peer() -> Iterator[PeerRecord]:
    """A standing peer, named "one"; stopped at the end if it still runs."""
    run("start", "--num-cpus", "1", "--num-gpus", "0", "--name", "one")
    (record,) = find_peers()
    yield record
    run("stop", "--all")


class TestStartAndStop:
    def test_it_serves_when_start_returns_and_is_gone_when_stop_returns(self, peer: PeerRecord) -> None:
        assert peer.name == "one"
        assert not peer.private
        assert Path(peer.folder).stat().st_mode & 0o777 == 0o700
        assert all(file.stat().st_mode & 0o077 == 0 for file in Path(peer.folder).iterdir())
        assert "stopped" in run("stop")
        assert find_peers() == []
        assert not Path(peer.folder).exists()
        assert not Path(peer.store).exists()
        assert "No peer runs" in run("stop")

    def test_a_name_is_taken_once_and_another_is_welcome(self, peer: PeerRecord) -> None:
        told = run("start", "--name", "one", code=1)
        assert f"pid {peer.pid}" in told
        assert "--name" in told
        run("start", "--num-cpus", "1", "--name", "two")
        assert [record.name for record in find_peers()] == ["one", "two"]
        assert "choose one by --name" in run("stop", code=1)
        run("stop", "--name", "two")
        assert [record.name for record in find_peers()] == ["one"]
        assert "no peer named 'two'" in run("stop", "--name", "two", code=1)

    @pytest.mark.fault(18)
    def test_after_a_kill_the_next_start_sweeps(self, peer: PeerRecord) -> None:
        os.kill(peer.pid, signal.SIGKILL)
        until(lambda: not is_claimed(Path(peer.folder)))
        assert "No peer runs" in run("status", code=1)
        run("start", "--num-cpus", "1", "--name", "one")
        (again,) = find_peers()
        assert again.node != peer.node
        assert not Path(peer.folder).exists()
        assert not Path(peer.store).exists()

    def test_who_stops_it_hears_what_it_waits_for_and_need_not_wait(self, peer: PeerRecord, tmp_path: Path) -> None:
        program = write(
            tmp_path / "program.py",
            """
            import time
            import meshray as ray

            @ray.remote
            def work():
                print("it works", flush=True)
                time.sleep(600)

            @ray.remote(num_cpus=0)
            class Actor:
                def work(self):
                    print("he works", flush=True)
                    time.sleep(600)

            ray.init("auto")
            actor = Actor.remote()
            refs = [actor.work.remote(), work.remote()]
            ray.get(refs)
            """,
        )
        with running(*python(program)) as driver:
            driver.read_until("it works")
            driver.read_until("he works")
            with running(sys.executable, "-m", "meshray.cli", "stop", "--timeout", "300") as stop:
                stop.read_until("Ctrl-C ends it at once")
                assert f"Peer 'one' (pid {peer.pid}) waits for 1 task and 1 actor to end, for " in stop.told
                stop.send(signal.SIGINT)
                assert "stopped by SIGTERM" in stop.end()
            assert "was stopped" in driver.end(None)
        assert find_peers() == []

    @pytest.mark.parametrize(
        ("drain", "said"),
        [
            ({}, ""),
            ({"phase": "works", "tasks": 2, "actors": 0, "values": 0}, "waits for 2 tasks to end"),
            ({"phase": "ends", "tasks": 1, "actors": 0, "values": 0}, "hands back 1 task"),
            ({"phase": "moves", "tasks": 0, "actors": 1, "values": 3}, "moves 1 actor and 3 values to other hosts"),
            ({"phase": "moves", "tasks": 0, "actors": 0, "values": 0}, "moves what others need to other hosts"),
            ({"phase": "says", "tasks": 0, "actors": 0, "values": 0}, "tells other hosts that it leaves"),
        ],
    )
    def test_what_a_peer_waits_for_in_words(self, drain: dict[str, Any], said: str) -> None:
        text = stopping.describe_drain(drain and drain | {"seconds": 9.6})
        assert text == (said and f"{said}, for 10 s at most")

    def test_in_the_foreground_it_stays_until_interrupted(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "meshray.cli", "start", "--local", "--foreground", "--name", "front"],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stderr is not None
        try:
            assert "'front' serves" in process.stderr.readline()
            (record,) = find_peers()
            assert record.pid == process.pid
            run("status")  # its loop runs
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(LIMIT_S) == 0
            assert "being stopped (Ctrl-C)" in process.stderr.read()
        finally:
            process.kill()
            process.wait()
            process.stderr.close()

    def test_a_sigterm_at_any_moment_after_it_serves_ends_it_in_order(self) -> None:
        for delay_s in (0.0, 0.0, 0.001, 0.003, 0.01):
            started = launch.start_private(PeerSettings(num_cpus=1, num_gpus=0))
            time.sleep(delay_s)  # a moment, not a wait for something
            os.kill(started.pid, signal.SIGTERM)
            assert started.wait_ended(LIMIT_S)
            assert started.exit_status == 0

    def test_a_peer_that_crashes_leaves_its_log(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A signal whose handler raises ends its loop as a fault of ours would."""
        (tmp_path / "sitecustomize.py").write_text(
            "import signal\n"
            "def fail(*_):\n"
            "    raise RuntimeError('a fault of ours')\n"
            "signal.signal(signal.SIGUSR2, fail)\n"
        )
        with monkeypatch.context() as patched:
            patched.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
            run("start", "--num-cpus", "1", "--num-gpus", "0", "--name", "one")
        (record,) = find_peers()
        os.kill(record.pid, signal.SIGUSR2)
        until(lambda: not Path(record.folder).exists())
        (crash,) = crashes.found()
        assert "a fault of ours" in crash.log.read_text()
        assert str(crash.log) in run("status", code=1)
        assert str(crash.log) in run("start", "--num-cpus", "1", "--num-gpus", "0", "--name", "one")
        run("stop")
        crash.log.unlink()

    def test_a_peer_whose_folder_is_taken_away_ends_and_says_why(self, peer: PeerRecord) -> None:
        """As systemd does with `/run/user/UID` when the last login ends."""
        folder = Path(peer.folder)
        pidfd = os.pidfd_open(peer.pid)
        try:
            os.rename(folder.parent, aside := folder.parent.with_name(folder.parent.name + ".aside"))
            try:
                assert "No peer runs" in run("status", code=1)
                assert select.select([pidfd], [], [], LIMIT_S)[0]
                (crash,) = crashes.found()
                assert crash.name == "one"
                assert "loginctl enable-linger" in crash.log.read_text()
                assert str(crash.log) in run("status", code=1)
                crash.log.unlink()
            finally:
                folder.parent.rmdir()  # made anew for the log
                os.rename(aside, folder.parent)
        finally:
            os.close(pidfd)

    @pytest.mark.fault(7)
    def test_a_private_peer_ends_with_its_driver(self) -> None:
        program = (
            "import os, signal\n"
            "from meshray.launch import PeerSettings, start_private\n"
            "print(start_private(PeerSettings(num_cpus=1, num_gpus=0)).pid, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=LIMIT_S, check=False)
        assert done.returncode == -signal.SIGKILL
        until(lambda: find_peers(private=True) == [])

    @pytest.mark.fault(13)
    def test_a_peer_that_hangs_is_killed_in_bounded_time(
        self, peer: PeerRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stopping, "ASK_TIMEOUT_S", 0.1)
        monkeypatch.setattr(stopping, "TERM_TIMEOUT_S", 0.1)
        os.kill(peer.pid, signal.SIGSTOP)
        told = CliRunner().invoke(command, ["stop", "--timeout", "0.1"])
        assert told.exit_code == 0, told.output
        assert "had to be killed" in told.output
        assert not Path(peer.folder).exists()


class TestStatus:
    def test_for_people(self, peer: PeerRecord) -> None:
        told = run("status")
        assert f"Peer 'one' (pid {peer.pid}" in told
        assert "of 1 in use" in told

    def test_for_programs(self, peer: PeerRecord) -> None:
        (status,) = json.loads(run("status", "--json"))
        assert status["node_id"] == peer.node
        assert status["resources"]["total"]["CPU"] == 1.0
        assert status["drivers"] == []
        assert status["store"]["capacity_bytes"] > 0

    def test_again_and_again_until_it_is_interrupted(self, peer: PeerRecord) -> None:
        watching = subprocess.Popen(
            [sys.executable, "-m", "meshray.cli", "status", "--watch"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert watching.stdout is not None
        told = ""
        while told.count("Peer 'one'") < 2:
            line = watching.stdout.readline()
            assert line, told
            told += line
        watching.send_signal(signal.SIGINT)
        rest, _ = watching.communicate(timeout=LIMIT_S)
        assert watching.returncode == 0, told + rest
        assert "Abort" not in rest
        assert "Traceback" not in rest

    def test_what_was_given_is_there(self) -> None:
        run("start", "--num-cpus", "2", "--num-gpus", "1", "--resources", '{"disk": 2.5}', "--labels", '{"zone": "a"}',
            "--object-store-memory", "20000000", "--name", "rich")  # fmt: skip
        (status,) = json.loads(run("status", "--json"))
        total = status["resources"]["total"]
        assert (total["CPU"], total["GPU"], total["disk"]) == (2.0, 1.0, 2.5)
        assert total["object_store_memory"] == 20_000_000
        assert status["labels"]["zone"] == "a"
        run("stop")

    def test_a_peer_of_a_program_is_shown_when_asked_for(self, mesh: Any) -> None:
        assert "No peer runs" in run("status", code=1)
        (status,) = json.loads(run("status", "--json", "--all"))
        assert status["private"]
        assert status["drivers"][0]["pid"] == os.getpid()


class TestProgramsAttach:
    def test_by_themselves_and_the_peer_outlives_them(self, peer: PeerRecord, tmp_path: Path) -> None:
        program = tmp_path / "program.py"
        program.write_text(
            "import meshray as ray\n"
            "@ray.remote\n"
            "def double(x):\n"
            "    return 2 * x\n"
            "print(ray.get(double.remote(21)), ray.nodes()[0]['NodeID'])\n"
        )
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, str(program)],
                capture_output=True, text=True, timeout=LIMIT_S, check=False, env=_environment(),
            )  # fmt: skip
            assert done.stdout.split() == ["42", peer.node], done.stderr
        assert find_peers() == [peer]


def _environment() -> dict[str, str]:
    """A program in another folder finds the package that is being tested."""
    return {**os.environ, "PYTHONPATH": str(Path(meshray.__file__).parents[1])}


class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "named"),
        [
            (["--num-cpus", "-1"], "--num-cpus"),
            (["--num-cpus", "many"], "--num-cpus"),
            (["--resources", "{"], "no JSON"),
            (["--resources", "[1]"], "no JSON object"),
            (["--resources", '{"disk": "big"}'], "'disk'"),
            (["--resources", '{"disk": -1}'], "'disk'"),
            (["--resources", '{"CPU": 1}'], "'CPU'"),
            (["--labels", '{"zone": 1}'], "'zone'"),
            (["--object-store-memory", "0"], "--object-store-memory"),
        ],
    )
    def test_a_wrong_option_is_named(self, words: list[str], named: str) -> None:
        code = 1 if named == "'CPU'" else 2
        assert named in run("start", *words, code=code)
        assert find_peers() == []

    def test_a_folder_that_lets_others_in_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = Path("/tmp") / f"mr-open-{new_node().hex()[:8]}"
        folder.mkdir()
        folder.chmod(0o755)
        monkeypatch.setenv("MESHRAY_RUNTIME_DIR", str(folder))
        try:
            for words in (["start"], ["status"], ["stop"]):
                assert f"chmod 700 {folder}" in run(*words, code=1)
        finally:
            folder.rmdir()

    def test_stop_takes_one_choice(self) -> None:
        assert "exclude each other" in run("stop", "--all", "--name", "x", code=2)
