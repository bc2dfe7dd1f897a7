"""Hosts on one machine: each a set of namespaces, all on one switch.

A host has a network, a mount table with a /dev/shm of its own, a hostname, an IPC and a pid namespace, its own home and
runtime folder of meshray, and one interface `eth0` on the switch (10.77.0.N/24 and fd77::N/64, with multicast). Names
and numbers are given by the test; nothing of it has a name outside (no `ip netns add`), so nothing can be left behind:
when the test run ends, however it ends, `init.py` and the switch see the end of their input, and the kernel removes
the rest. Needs root, iproute2 and util-linux.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.until import until

REPOSITORY = Path(__file__).parents[2]
INIT = Path(__file__).with_name("init.py")
SHARED_MEMORY_BYTES = 256 << 20
START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 20.0


def why_not(switch: bool = True) -> str:
    """Why no hosts can be made here (on a `switch` of ours); empty when they can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are a thing of Linux"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    for tool, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")):
        if shutil.which(tool) is None:
            return f"needs `{tool}` (Debian's {package})"
    if switch and not Path("/dev/net/tun").exists():
        return "needs TAP devices (/dev/net/tun)"
    if not Path("/proc/thread-self/children").exists():
        return "needs /proc/PID/task/PID/children (CONFIG_PROC_CHILDREN)"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if tried.returncode == 0 else f"namespaces are forbidden here: {tried.stderr.strip()}"


class Program:
    """A program on a host; its output is collected by line."""

    def __init__(self, host: Host, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.command = list(command)
        self._entered = subprocess.Popen(
            [*host.entering(pid=True), *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env=dict(environment), cwd=REPOSITORY,
        )  # fmt: skip
        self.lines: list[str] = []  # grows while it runs
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        until(lambda: self._child() or self._entered.poll() is not None, f"{command} runs")
        self.pid = self._child()
        """Of the program itself, outside of its namespace; 0 when it had ended by then."""

    def _read(self) -> None:
        assert self._entered.stdout is not None
        for line in self._entered.stdout:
            self.lines.append(line.rstrip("\n"))

    def _child(self) -> int:
        entered = self._entered.pid
        try:
            children = Path(f"/proc/{entered}/task/{entered}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return int(children[0]) if children else 0

    def tell(self, line: str) -> None:
        assert self._entered.stdin is not None
        self._entered.stdin.write(line + "\n")
        self._entered.stdin.flush()

    def json_lines(self) -> list[Any]:
        """The lines so far that are JSON objects."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    def running(self) -> bool:
        return self._entered.poll() is None

    def wait(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Its exit status (negative: the signal that ended it), once all its output is here."""
        status = self._entered.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def signal(self, number: int) -> None:
        """To the program itself. A stopped program is resumed by SIGCONT."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            if number == signal.SIGCONT:  # `nsenter` stops with its program, and would never tell its end
                os.kill(self._entered.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.signal(signal.SIGCONT)
        self.wait()
        self.close()

    def close(self) -> None:
        """Let go of its pipes; it has ended, or ends with its host."""
        for pipe in (self._entered.stdin, self._entered.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def __repr__(self) -> str:
        return f"Program({self.command}, pid={self.pid}, {self._entered.poll()})\n  " + "\n  ".join(self.lines)


class Host:
    """One machine of the LAN."""

    def __init__(self, name: str, number: int, folder: Path, shared_memory_bytes: int = SHARED_MEMORY_BYTES) -> None:
        self.name = name
        self.ipv4, self.ipv6 = f"10.77.0.{number}", f"fd77::{number:x}"
        self.folder = folder
        folder.mkdir()
        self._programs: list[Program] = []
        self._outer = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child",
             "--propagation", "private", "--", sys.executable, "-I", "-S", str(INIT), name,
             str(shared_memory_bytes)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)},
        )  # fmt: skip
        assert self._outer.stdout is not None
        ready = self._outer.stdout.readline().split()
        if ready[:1] != ["ready"]:
            raise RuntimeError(f"the host {name} did not start")
        self.pid = int(ready[1])  # of its first process, seen from outside
        self.namespace = os.stat(f"/proc/{self.pid}/ns/net").st_ino

    def configure(self) -> None:
        """Give eth0 its addresses; it is plugged in already."""
        self.ip(
            "link set lo up",
            f"address add {self.ipv4}/24 broadcast + dev eth0",
            f"address add {self.ipv6}/64 dev eth0 nodad",
            "link set eth0 up",
            "route add 224.0.0.0/4 dev eth0",
        )

    def entering(self, pid: bool = False) -> list[str]:
        """The words that run a program inside."""
        kinds = ["--net", "--mount", "--uts", "--ipc", *(["--pid"] if pid else [])]
        return ["nsenter", "--target", str(self.pid), *kinds, "--"]

    def ip(self, *lines: str) -> None:
        """Run these commands of `ip`."""
        batch = "\n".join(lines) + "\n"
        subprocess.run(
            ["nsenter", "--target", str(self.pid), "--net", "--", "ip", "-batch", "-"],
            input=batch, text=True, check=True, capture_output=True,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MESHRAY_", "XDG_"))}
        return {
            **kept,
            "MESHRAY_HOME": str(self.folder / "home"),
            "MESHRAY_RUNTIME_DIR": str(self.folder / "run"),
            "TMPDIR": str(self.folder),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, *command: str, **environment: str) -> Program:
        """Start a program; `python` is this one."""
        words = [sys.executable if command[0] == "python" else command[0], *command[1:]]
        program = Program(self, words, self.environment() | environment)
        self._programs.append(program)
        return program

    def speak_only(self, version: int) -> None:
        """Take away its addresses of the other version of IP."""
        if version == 4:
            self.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
        else:
            self.ip(f"address del {self.ipv4}/24 dev eth0")

    def run(self, *command: str, timeout_s: float = START_TIMEOUT_S, status: int = 0, **environment: str) -> str:
        """Run a program to its end; what it said. Fails when it ends with another `status`."""
        program = self.start(*command, **environment)
        found = program.wait(timeout_s)
        program.close()
        assert found == status, program
        return "\n".join(program.lines)

    def processes(self) -> Iterator[int]:
        """Of all that runs on it, but the first one, which does nothing."""
        namespace = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ends just now
                if os.stat(process / "ns" / "pid").st_ino == namespace and int(process.name) != self.pid:
                    yield int(process.name)

    def suspend(self) -> None:
        """All of its processes stop, as when a laptop is closed; its kernel still answers for open connections."""
        stopped: set[int] = set()
        while found := set(self.processes()) - stopped:  # some may just have been born
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            stopped |= found

    def resume(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        for program in self._programs:
            if program.running():
                program.signal(signal.SIGCONT)

    def power_off(self) -> None:
        """All of its processes die this moment, and say nothing."""
        os.kill(self.pid, signal.SIGKILL)
        self._outer.wait(END_TIMEOUT_S)

    def close(self) -> None:
        assert self._outer.stdin is not None
        assert self._outer.stdout is not None
        self._outer.stdin.close()
        try:
            self._outer.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._outer.kill()  # and by --kill-child all others
            self._outer.wait(END_TIMEOUT_S)
        self._outer.stdout.close()
        for program in self._programs:
            program.signal(signal.SIGCONT)
            program.wait(END_TIMEOUT_S)
            program.close()

    def __repr__(self) -> str:
        return f"Host({self.name}, {self.ipv4}, {self.ipv6}, pid={self.pid})"


class Hosts:
    """Some hosts. A context manager: at its end nothing of them is left, whatever happened. Whoever derives from it
    connects them."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mrlan"))
        self.hosts: dict[str, Host] = {}

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def close(self) -> None:
        for host in self.hosts.values():
            host.close()
        self.unplug()
        shutil.rmtree(self.folder, ignore_errors=True)

    def unplug(self) -> None:
        """What connected the hosts, which are gone, goes too."""

    def left(self) -> list[str]:
        """After `close`: what is still there, one line each. (The number of a namespace that is gone may be that of
        another one by now; what was started here has the folder in its environment.)"""
        namespaces = {host.namespace: host.name for host in self.hosts.values()}
        left = [f"the folder {self.folder}"] if self.folder.exists() else []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ends just now
                name = namespaces.get(os.stat(process / "ns" / "net").st_ino)
                if name is not None and os.fsencode(self.folder) in (process / "environ").read_bytes():
                    left.append(f"process {process.name} on host {name}: {(process / 'cmdline').read_bytes()!r}")
        return left

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Lan(Hosts):
    """`names` hosts on one switch, which can do what a bad network does."""

    def __init__(self, *names: str, seed: int = 0, offload: bool = False) -> None:
        super().__init__()
        self._control: socket.socket | None = None
        self._switch: subprocess.Popen[str] | None = None
        self._offload = offload
        try:
            self._start_switch(seed)
            for name in names:
                self.add(name)
        except BaseException:
            self.close()
            raise

    def add(self, name: str) -> Host:
        """One more host. A name is given once, also when its host is gone."""
        host = self.hosts[name] = Host(name, len(self.hosts) + 1, self.folder / name)
        self._command(do="plug", host=name, pid=host.pid, offload=self._offload)
        host.configure()
        return host

    def _start_switch(self, seed: int) -> None:
        path = str(self.folder / "switch")
        self._switch = subprocess.Popen(
            [sys.executable, "-m", "tests.lan.switch", path, str(seed)],
            stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        )  # fmt: skip
        assert self._switch.stdout is not None
        if self._switch.stdout.readline() != "ready\n":
            raise RuntimeError("the switch did not start")
        self._control = socket.socket(socket.AF_UNIX)
        self._control.settimeout(START_TIMEOUT_S)
        self._control.connect(path)

    def _command(self, **command: object) -> Any:
        assert self._control is not None
        self._control.sendall(json.dumps(command).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            data = self._control.recv(65536)
            if not data:
                raise RuntimeError("the switch has ended")
            answer += data
        told = json.loads(answer)
        if "error" in told:
            raise RuntimeError(f"the switch: {told['error']}")
        return told["result"]

    # -- faults ------------------------------------------------------------------------------------------------------

    def rule(self, source: Iterable[str] | str, to: Iterable[str] | str, **changes: float) -> None:
        """Change what befalls frames from some hosts to others, in this direction (see `switch.Rule`)."""
        self._command(do="rule", **{"from": _names(source), "to": _names(to), "set": changes})

    def everywhere(self, **changes: float) -> None:
        """The same for every way."""
        self.rule(list(self.hosts), list(self.hosts), **changes)

    def partition(self, *sides: Iterable[str] | str) -> None:
        """Cut these groups off from one another, in both directions."""
        for side in sides:
            for other in sides:
                if side is not other:
                    self.rule(side, other, block=True)

    def heal(self) -> None:
        """All faults end."""
        self._command(do="heal")

    def pull_cable(self, name: str) -> None:
        self._command(do="carrier", host=name, on=False)

    def plug_cable(self, name: str) -> None:
        self._command(do="carrier", host=name, on=True)

    def stats(self) -> dict[str, dict[str, int]]:
        """Counters by way, such as `a>b`."""
        stats: dict[str, dict[str, int]] = self._command(do="stats")
        return stats

    # -- the end -----------------------------------------------------------------------------------------------------

    def unplug(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._switch is not None:
            try:
                self._switch.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._switch.kill()
                self._switch.wait(END_TIMEOUT_S)
            assert self._switch.stdout is not None
            self._switch.stdout.close()


def _names(hosts: Iterable[str] | str) -> list[str]:
    return [hosts] if isinstance(hosts, str) else list(hosts)
