"""Copies of programs on a host: made once per content, whoever comes first, and removed when nobody uses them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from meshray.runtime.bundle.archive import ArchiveError, Entry, content_hash, pack
from meshray.runtime.bundle.copies import FOLDER, Copies

FORK = multiprocessing.get_context("fork")
WAIT_S = 30.0


def archive(text: str, files: int = 3) -> bytes:
    return pack([(Entry(f"file{n}", "file", len(text)), text.encode()) for n in range(files)])


def never() -> bytes:
    raise AssertionError("the copy is there")


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    return Copies(tmp_path, 1000, 2)


@pytest.fixture
def held() -> Iterator[list[int]]:
    """Descriptors of copies in use, let go of at the end."""
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


def use(copies: Copies, text: str) -> tuple[Path, int]:
    data = archive(text)
    return copies.use(content_hash(data), lambda: data)


def test_made_once(copies: Copies, held: list[int]) -> None:
    path, fd = use(copies, "x")
    held.append(fd)
    assert sorted(each.read_text() for each in path.iterdir()) == ["x", "x", "x"]
    again, fd = copies.use(content_hash(archive("x")), never)
    held.append(fd)
    assert again == path


def test_another_archive_than_was_asked_for(copies: Copies, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="its hash is"):
        copies.use(content_hash(archive("x")), lambda: archive("y"))
    assert {path.suffix for path in (tmp_path / FOLDER).iterdir()} == {".lock"}


def test_those_who_come_together_do_not_wait_for_each_others_ends(copies: Copies, held: list[int]) -> None:
    for turn in range(20):
        data = archive(f"turn {turn}")
        here = threading.Barrier(3)

        def use_it(data: bytes = data, here: threading.Barrier = here) -> None:
            here.wait(WAIT_S)
            held.append(copies.use(content_hash(data), lambda: data)[1])

        users = [threading.Thread(target=use_it, daemon=True) for _ in range(3)]
        for user in users:
            user.start()
        for user in users:
            user.join(WAIT_S)
        assert not any(user.is_alive() for user in users), "one waits for as long as another uses the copy"
    path, fd = use(copies, "x")  # nothing stands in the way of the right one
    os.close(fd)
    assert path.is_dir()


def test_a_program_that_is_long_on_its_way_keeps_no_other_from_being_made(copies: Copies, held: list[int]) -> None:
    slow = archive("slow")
    asked, there = threading.Event(), threading.Event()

    def fetch() -> bytes:
        asked.set()
        there.wait(WAIT_S)
        return slow

    user = threading.Thread(target=lambda: held.append(copies.use(content_hash(slow), fetch)[1]), daemon=True)
    user.start()
    assert asked.wait(WAIT_S)
    quick: list[Path] = []

    def use_another() -> None:
        path, fd = use(copies, "quick")
        quick.append(path)
        held.append(fd)

    other = threading.Thread(target=use_another, daemon=True)
    other.start()
    other.join(WAIT_S)
    assert len(quick) == 1, "it waits for the other program"
    there.set()
    user.join(WAIT_S)
    assert not user.is_alive()
    assert not [path for path in quick[0].parent.iterdir() if path.suffix == ".making"]


def test_what_could_not_be_fetched_or_unpacked_leaves_nothing(copies: Copies, tmp_path: Path) -> None:
    hostile = archive("x") + b"more"

    def fail() -> bytes:
        raise OSError("no way")

    for content, fetch in ((content_hash(hostile), lambda: hostile), (bytes(32), fail)):
        with pytest.raises((ArchiveError, OSError)):
            copies.use(content, fetch)
    assert all(path.suffix == ".lock" for path in (tmp_path / FOLDER).iterdir())


def test_no_room(copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = os.write

    def write(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space left"):
        use(copies, "x")
    monkeypatch.setattr(os, "write", written)
    assert all(path.suffix == ".lock" for path in (tmp_path / FOLDER).iterdir())


def test_the_oldest_that_nobody_uses_go(copies: Copies, held: list[int], tmp_path: Path) -> None:
    used, fd = use(copies, "used")
    held.append(fd)
    idle = []
    for number in range(4):
        path, fd = use(copies, f"idle{number}")
        os.close(fd)
        os.utime(path, (number, number))
        idle.append(path)
    _, fd = use(copies, "new")
    held.append(fd)
    assert used.is_dir()
    assert [path.is_dir() for path in idle] == [False, False, False, True]
    names = {path.stem for path in (tmp_path / FOLDER).iterdir()}
    assert len(names) == 3, "their locks went along"


def test_one_that_is_used_is_not_the_oldest(copies: Copies, tmp_path: Path) -> None:
    """Of those in use none goes, however many they are."""
    fds = [use(copies, f"used{number}")[1] for number in range(5)]
    assert sum(path.is_dir() for path in (tmp_path / FOLDER).iterdir()) == 5
    for fd in fds:
        os.close(fd)


def test_a_maker_that_was_killed(copies: Copies, tmp_path: Path) -> None:
    """Its half copy is no copy, and its lock is free."""
    data = archive("x")
    content = content_hash(data)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:

        def die() -> bytes:
            (tmp_path / FOLDER / f"{content.hex()}.new").mkdir()
            os.write(writer, b"!")
            signal.pause()
            return b""

        copies.use(content, die)
        os._exit(1)
    os.read(reader, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    path, fd = copies.use(content, lambda: data)
    os.close(fd)
    assert len(list(path.iterdir())) == 3
    assert not path.with_suffix(".new").exists()


def race(folder: Path, turns: int, seed: int, to: Connection) -> None:
    """Use copies, each for a moment; tell how many this one has made, and whether all were whole."""
    copies = Copies(folder, 1000, 1)
    made = 0
    whole = True
    for turn in range(turns):
        text = f"program{(seed + turn) % 4}"
        data = archive(text, 20)

        def fetch(data: bytes = data) -> bytes:
            nonlocal made
            made += 1
            return data

        path, fd = copies.use(content_hash(data), fetch)
        found = [each.read_text() for each in path.iterdir()]
        whole = whole and found == [text] * 20
        os.close(fd)
    to.send((made, whole))


def test_workers_that_race_for_many(tmp_path: Path) -> None:
    """Copies come and go, and whoever uses one has all of it."""
    pipes = [FORK.Pipe(duplex=False) for _ in range(6)]
    workers = [FORK.Process(target=race, args=(tmp_path, 40, n, pipe[1])) for n, pipe in enumerate(pipes)]
    for worker in workers:
        worker.start()
    for worker, (reader, _) in zip(workers, pipes, strict=True):
        assert reader.poll(WAIT_S)
        assert reader.recv()[1]
        worker.join(WAIT_S)
        assert worker.exitcode == 0


def test_workers_that_race_for_one(tmp_path: Path) -> None:
    """One of them makes it."""
    pipes = [FORK.Pipe(duplex=False) for _ in range(6)]
    workers = [FORK.Process(target=race, args=(tmp_path, 1, 0, pipe[1])) for pipe in pipes]
    for worker in workers:
        worker.start()
    assert sum(reader.recv()[0] for reader, _ in pipes if reader.poll(WAIT_S)) == 1
    for worker in workers:
        worker.join(WAIT_S)
