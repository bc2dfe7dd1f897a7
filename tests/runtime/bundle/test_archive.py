"""Archives: what goes in comes out, equal contents are equal bytes, and nothing gets out of the new folder."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshray.runtime.bundle.archive import (
    _HEADER,
    _MAGIC,
    ArchiveError,
    Entry,
    content_hash,
    pack,
    read_index,
    unpack,
)

NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[Entry, bytes]]:
    """Files, programs and links in folders."""
    folders, found, targets = [""], [], []
    for name in draw(st.lists(NAMES, max_size=6, unique=True)):
        above = draw(st.sampled_from(folders))
        path = f"{above}/{name}" if above else name
        kind = draw(st.sampled_from(["file", "program", "folder", "link"]))
        if kind == "link" and targets:
            found.append((Entry(path, "link", target=draw(st.sampled_from(targets))), b""))
        elif kind == "folder":
            folders.append(path)
            targets.append(path)
            found.append((Entry(path, "folder"), b""))
        else:
            content = draw(st.binary(max_size=100))
            targets.append(path)
            found.append((Entry(path, "program" if kind == "program" else "file", len(content)), content))
    return found


def look(folder: Path) -> dict[str, object]:
    """What is below a folder: text of links, contents of files and whether they may be executed, None for folders."""
    found: dict[str, object] = {}
    for above, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(above, name)
            inside = str(path.relative_to(folder))
            if path.is_symlink():
                found[inside] = (os.path.relpath(path.resolve(), folder.resolve()),)
            elif path.is_dir():
                found[inside] = None
            else:
                found[inside] = (path.read_bytes(), os.access(path, os.X_OK) and bool(path.stat().st_mode & 0o100))
    return found


def raw(entries: object, contents: bytes = b"") -> bytes:
    """An archive with this index, whatever it says."""
    index = msgspec.msgpack.encode(entries)
    return _HEADER.pack(_MAGIC, len(index)) + index + contents


@settings(max_examples=60, deadline=None)
@given(trees(), st.randoms())
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, tree: list[tuple[Entry, bytes]], r: random.Random
) -> None:
    archive = pack(tree)
    shuffled = list(tree)
    r.shuffle(shuffled)
    assert pack(shuffled) == archive
    folder = tmp_path_factory.mktemp("unpacked") / "copy"
    unpack(memoryview(archive), folder, 100)
    expected = {}
    for entry, content in tree:
        if entry.kind == "link":
            expected[entry.path] = (entry.target,)
        else:
            expected[entry.path] = None if entry.kind == "folder" else (content, entry.kind == "program")
    assert look(folder) == expected


@settings(max_examples=60, deadline=None)
@given(trees(), st.data())
def test_another_content_has_another_hash(tree: list[tuple[Entry, bytes]], data: st.DataObject) -> None:
    archive = pack(tree)
    assert content_hash(archive) == content_hash(bytearray(archive))
    if files := [i for i, (entry, content) in enumerate(tree) if content]:
        changed = list(tree)
        at = data.draw(st.sampled_from(files))
        entry, content = changed[at]
        changed[at] = (entry, bytes(byte ^ 1 for byte in content))
        assert content_hash(pack(changed)) != content_hash(archive)


@settings(max_examples=300, deadline=None)
@given(trees(), st.data())
def test_garbage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, tree: list[tuple[Entry, bytes]], data: st.DataObject
) -> None:
    """A bit is turned, or the end is cut off: an error, or something in the new folder alone."""
    archive = bytearray(pack(tree))
    if data.draw(st.booleans()):
        archive[data.draw(st.integers(0, len(archive) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del archive[data.draw(st.integers(0, len(archive) - 1)) :]
    base = tmp_path_factory.mktemp("garbage")
    try:
        unpack(bytes(archive), base / "copy", 100)
    except ArchiveError:
        pass
    assert set(os.listdir(base)) <= {"copy"}
    for above, folders, files in os.walk(base / "copy"):
        for name in [*folders, *files]:
            assert Path(above, name).resolve().is_relative_to((base / "copy").resolve())


FOLDER = Entry("a", "folder")

HOSTILE: dict[str, list[Entry]] = {
    "an absolute path": [Entry("/etc/x", "file")],
    "a way up": [Entry("..", "folder"), Entry("../x", "file")],
    "a way up and down": [FOLDER, Entry("a/../../x", "file")],
    "the folder itself": [Entry(".", "folder")],
    "no name": [Entry("", "file")],
    "an empty name": [FOLDER, Entry("a//x", "file")],
    "a zero": [Entry("x\0y", "file")],
    "a file below a file": [Entry("a", "file"), Entry("a/x", "file")],
    "a file below a link": [Entry("0", "folder"), Entry("a", "link", target="0"), Entry("a/x", "file")],
    "a file in no folder": [Entry("a/x", "file")],
    "twice the same": [Entry("x", "file"), Entry("x", "file")],
    "out of order": [Entry("y", "file"), Entry("x", "file")],
    "a link out": [Entry("x", "link", target="../../etc/passwd")],
    "an absolute link": [Entry("x", "link", target="/etc/passwd")],
    "a link to nothing": [Entry("x", "link")],
    "a link to itself": [Entry("x", "link", target="x")],
    "a link to a link": [FOLDER, Entry("x", "link", target="a"), Entry("y", "link", target="x")],
    "a negative size": [Entry("x", "file", -1), Entry("y", "file", 1)],
    "a folder with bytes": [Entry("x", "folder", 5)],
    "more bytes than there are": [Entry("x", "file", 1 << 60)],
    "a long name": [Entry("n" * 256, "file")],
    "a long path": [Entry("/".join(["n" * 10] * n), "folder") for n in range(1, 101)],
}


@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_archives_are_refused_before_anything_is_made(tmp_path: Path, entries: list[Entry]) -> None:
    with pytest.raises(ArchiveError):
        unpack(raw(entries), tmp_path / "copy", 1000)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"mrc1",
        b"mrc2" + bytes(4),
        _HEADER.pack(_MAGIC, 1 << 31),
        _HEADER.pack(_MAGIC, 100) + b"x",
        raw(5),
        raw([["x"]]),
        raw([["x", "device"]]),
        raw([["x", "file", "many"]]),
        raw([], b"more"),
        _HEADER.pack(_MAGIC, 100_000) + b"\x91" * 100_000,  # lists in lists
        _HEADER.pack(_MAGIC, 5) + b"\xdd\xff\xff\xff\xff",  # four billion entries
    ],
)
def test_what_is_no_archive(tmp_path: Path, archive: bytes) -> None:
    with pytest.raises(ArchiveError):
        unpack(archive, tmp_path / "copy", 1000)
    assert not (tmp_path / "copy").exists()


def test_the_number_of_entries_is_bounded(tmp_path: Path) -> None:
    archive = pack([(Entry(f"{n:04}", "file"), b"") for n in range(101)])
    read_index(memoryview(archive), 101)
    with pytest.raises(ArchiveError, match="101 entries of at most 100"):
        unpack(archive, tmp_path / "copy", 100)


def test_nothing_is_written_through_what_is_there(tmp_path: Path) -> None:
    """The folder is new, or nothing happens."""
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "x").symlink_to(tmp_path / "outside")
    with pytest.raises(FileExistsError):
        unpack(pack([(Entry("x", "file", 1), b"1")]), tmp_path / "copy", 10)
    assert not (tmp_path / "outside").exists()


def test_packing_refuses_what_unpacking_would() -> None:
    with pytest.raises(ArchiveError):
        pack([(Entry("../x", "file", 1), b"1")])
