"""What a test may leave behind, and how to see it (invariant I5: everything returns to where it was).

A `Snapshot` holds what is there before; `wait_clean` waits, within a deadline, until nothing new is there, and says
what still is. Processes are found in two ways: as descendants of this process, and by the test's own runtime folder in
their environment, which also shows those whose parent was killed.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir, mkdtemp

import psutil

from meshray.local import claimed_by

RUNTIME_VARIABLE = "MESHRAY_RUNTIME_DIR"
STORE_ROOT = Path(f"/dev/shm/meshray-{os.getuid()}")
DEADLINE_S = 10.0
STEP_S = 0.02


@contextmanager
def runtime_folder() -> Iterator[Path]:
    """A runtime folder and a home of one's own, named in the environment for the time of the block.

    The path is short, because the path of an ipc socket has at most 107 bytes. The caller checks that the folder is
    empty (`wait_clean`); what is still in it at the end is removed.
    """
    import shutil

    folder = Path(mkdtemp(prefix="mr"))
    names = {RUNTIME_VARIABLE: str(folder / "run"), "MESHRAY_HOME": str(folder / "home")}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield folder / "run"
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Snapshot:
    """What is there now. `runtime` is the folder whose peers this snapshot answers for."""

    runtime: Path
    processes: dict[int, str] = field(default_factory=dict)  # pid -> what it is
    segments: frozenset[str] = frozenset()  # peers' folders in the store's root
    folders: frozenset[str] = frozenset()  # peers' folders in the runtime folder
    descriptors: Counter[str] = field(default_factory=Counter)  # of this process, by what they stand for

    @classmethod
    def take(cls, runtime: Path) -> Snapshot:
        return cls(
            runtime=runtime,
            processes=_processes(runtime),
            segments=frozenset(_names(STORE_ROOT)),
            folders=frozenset(name for name in _names(runtime) if not name.startswith(".")),
            descriptors=_descriptors(),
        )

    def newer(self, later: Snapshot) -> list[str]:
        """What `later` has that this one has not, one line each."""
        lines = [f"process {pid}: {what}" for pid, what in later.processes.items() if pid not in self.processes]
        lines += [f"store folder {STORE_ROOT / name}" for name in sorted(self._own_segments(later))]
        lines += [f"runtime folder {self.runtime / name}" for name in sorted(later.folders - self.folders)]
        extra = later.descriptors - self.descriptors
        lines += [f"{count} more open descriptor(s) of {what}" for what, count in sorted(extra.items())]
        return lines

    def _own_segments(self, later: Snapshot) -> set[str]:
        """New folders in the store's root, but those of peers that other programs of this user run just now."""
        new = set(later.segments - self.segments)
        if not new:
            return new
        others = _foreign_runtime_folders(self.runtime)
        return {
            name
            for name in new
            if claimed_by(STORE_ROOT / name) in (None, *later.processes)
            and not any((folder / name).exists() for folder in others)
        }


def wait_clean(before: Snapshot, deadline_s: float = DEADLINE_S) -> list[str]:
    """Waits until nothing is there that was not there `before`; returns what still is after `deadline_s`."""
    end = time.monotonic() + deadline_s
    while True:
        left = before.newer(Snapshot.take(before.runtime))
        if not left or time.monotonic() > end:
            return left
        time.sleep(STEP_S)  # between two looks at a condition, not instead of one


def kill_left(before: Snapshot) -> None:
    """Ends the processes that `wait_clean` found, so that the next test starts clean."""
    for pid in _processes(before.runtime).keys() - before.processes.keys():
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()


def _processes(runtime: Path) -> dict[int, str]:
    me = psutil.Process()
    found = {child.pid: _describe(child) for child in me.children(recursive=True)}
    for process, folder in _runtime_folders():
        if folder == runtime and process.pid != me.pid:
            found.setdefault(process.pid, _describe(process))
    return found


def _describe(process: psutil.Process) -> str:
    try:
        with process.oneshot():
            command = " ".join(process.cmdline()) or process.name()
            return f"{process.status()}, child of {process.ppid()}: {command[:200]}"
    except psutil.Error:
        return "ending"


def _runtime_folders() -> Iterator[tuple[psutil.Process, Path]]:
    """Every process of this user that was started with a runtime folder in its environment, and that folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            folder = process.environ().get(RUNTIME_VARIABLE)
            if folder:
                yield process, Path(folder)


def _foreign_runtime_folders(own: Path) -> set[Path]:
    folders = {folder for _, folder in _runtime_folders()}
    folders.add(Path(gettempdir()) / f"meshray-{os.getuid()}")
    if "XDG_RUNTIME_DIR" in os.environ:
        folders.add(Path(os.environ["XDG_RUNTIME_DIR"]) / "meshray")
    return folders - {own}


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _descriptors() -> Counter[str]:
    """This process's open descriptors, counted by their target, without the numbers of pipes and sockets."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of this very listing is closed by now
            target = os.readlink(f"/proc/self/fd/{name}")
            found[target.split(":[")[0] if target.startswith(("pipe:", "socket:")) else target] += 1
    return found
