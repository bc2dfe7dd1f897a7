"""Programs of a user's, run as he would run them: text in a folder of their own, and a look at what came out."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

from meshray.local import PeerRecord, find_peers

LIMIT_S = 60.0


def write(path: Path, text: str) -> Path:
    path.write_text(dedent(text))
    return path


class Program:
    """A program that runs. Its output is read as it comes; stderr goes along with stdout."""

    def __init__(self, *command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(Path(__file__).parents[2]), **(env or {})},
        )
        self.told = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_until(self, text: str) -> str:
        """What was told up to and with `text`."""
        assert self.process.stdout is not None
        give_up_at = time.monotonic() + LIMIT_S
        while text not in self.told:
            left_s = give_up_at - time.monotonic()
            assert left_s > 0, f"no {text!r} in:\n{self.told}"
            ready, _, _ = select.select([self.process.stdout], [], [], left_s)
            part = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert part or not ready, f"it ended ({self.process.wait(LIMIT_S)}) without {text!r}:\n{self.told}"
            self.told += part.decode("utf-8", "replace")
        return self.told

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, code: int | None = 0) -> str:
        """Wait for its end; all it told. `code` None: whatever it ends with."""
        out, _ = self.process.communicate(timeout=LIMIT_S)
        self.told += out.decode("utf-8", "replace")
        assert code is None or self.process.returncode == code, (self.process.returncode, self.told)
        return self.told

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # it had not read everything when it was killed
        self.process.wait(LIMIT_S)


@contextmanager
def running(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> Iterator[Program]:
    """A program for the time of a block."""
    program = Program(*command, cwd=cwd, env=env)
    try:
        yield program
    finally:
        program.close()


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, code: int | None = 0) -> str:
    """A program to its end; what it told."""
    with running(*command, cwd=cwd, env=env) as program:
        return program.end(code)


def python(path: Path) -> tuple[str, Path]:
    return sys.executable, path


@contextmanager
def standing_peer(num_cpus: int = 2) -> Iterator[PeerRecord]:
    """A peer started by hand."""
    run(sys.executable, "-m", "meshray.cli", "start", "--local", "--num-cpus", str(num_cpus), "--name", "standing")
    try:
        (record,) = [each for each in find_peers() if each.name == "standing"]
        yield record
    finally:
        run(sys.executable, "-m", "meshray.cli", "stop", "--all")


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
