"""What of a folder goes along."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshray.runtime.bundle import gather as module
from meshray.runtime.bundle.archive import content_hash, pack
from meshray.runtime.bundle.gather import Bounds, Gathered, StoppedError, gather
from meshray.runtime.bundle.own import Own, own_folder

BOUNDS = Bounds(bytes_max=1 << 20, entries_max=100, looked_max=1000, look_s=60.0)


def fill(folder: Path, *paths: str) -> None:
    """Files with their own paths as content; a path that ends with / is a folder."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).write_text(path)


def look(folder: Path, bounds: Bounds = BOUNDS, shared: str = "") -> Gathered:
    return gather(Own(str(folder), shared), bounds, lambda: False)


def paths(gathered: Gathered) -> list[str]:
    return sorted(entry.path for entry, _ in gathered.found)


def test_everything_but_what_tools_made(tmp_path: Path) -> None:
    fill(tmp_path, "main.py", "data/table.csv", "package/__init__.py", "package/deep/module.py", "empty/")
    fill(tmp_path, ".git/config", ".env", "__pycache__/main.pyc", "package/__pycache__/x.pyc", "node_modules/x/y.js")
    fill(tmp_path, "venv/pyvenv.cfg", "venv/lib/thing.py", "env/conda-meta/history", "env/bin/python")
    gathered = look(tmp_path)
    assert paths(gathered) == [
        *("data", "data/table.csv", "empty", "main.py"),
        *("package", "package/__init__.py", "package/deep", "package/deep/module.py"),
    ]
    assert {entry.path: content for entry, content in gathered.found}["data/table.csv"] == b"data/table.csv"
    assert gathered.complaint() == ""


def test_the_same_content_has_the_same_hash_whatever_the_times(tmp_path: Path) -> None:
    hashes = set()
    for folder in ("one", "other"):
        fill(tmp_path / folder, *(["b/c.py", "a.py"] if folder == "one" else ["a.py", "b/c.py"]))
        os.utime(tmp_path / folder / "a.py", (1, len(hashes)))
        (tmp_path / folder / "a.py").chmod(0o640 if hashes else 0o604)
        hashes.add(content_hash(pack(look(tmp_path / folder).found)))
    assert len(hashes) == 1
    (tmp_path / "other" / "a.py").chmod(0o755)  # that is a difference
    hashes.add(content_hash(pack(look(tmp_path / "other").found)))
    assert len(hashes) == 2


def test_sockets_and_pipes_are_no_files(tmp_path: Path) -> None:
    fill(tmp_path, "main.py")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.relpath(tmp_path / "socket"))
        gathered = look(tmp_path)
    assert paths(gathered) == ["main.py"]
    assert gathered.complaint() == ""


def test_links_inside_go_along_and_links_out_do_not(tmp_path: Path) -> None:
    program = tmp_path / "program"
    fill(program, "v2/module.py", ".hidden/secret")
    fill(tmp_path, "outside/secret.py")
    (program / "current").symlink_to("v2")
    (program / "module.py").symlink_to(program / "v2" / "module.py")
    (program / "again.py").symlink_to("module.py")  # by way of another link
    (program / "loop").symlink_to("loop")
    (program / "broken").symlink_to("nowhere")
    (program / "itself").symlink_to(".")
    (program / "hidden").symlink_to(".hidden")
    (program / "out.py").symlink_to("../outside/secret.py")
    (program / "up").symlink_to("..")
    gathered = look(program)
    assert {entry.path: entry.target for entry, _ in gathered.found if entry.kind == "link"} == {
        "current": "v2",
        "module.py": "v2/module.py",
        "again.py": "v2/module.py",
    }
    assert gathered.complaint() == "not out.py, up (they lead out of the folder)"


@pytest.mark.parametrize(
    ("bounds", "why"),
    [
        (Bounds(40_000, 100, 1000, 60.0), "has more than 0 MiB"),
        (Bounds(1 << 20, 9, 1000, 60.0), "has more than 9 files"),
        (Bounds(1 << 20, 100, 10, 60.0), "has more than 10 files and folders"),
    ],
)
def test_too_much_leaves_the_sources(tmp_path: Path, bounds: Bounds, why: str) -> None:
    fill(tmp_path, "main.py", "package/__init__.py", "package/module.py", "notes.txt")
    for number in range(8):
        (tmp_path / f"data{number}.bin").write_bytes(bytes(10_000))
    gathered = look(tmp_path, bounds)
    if bounds.looked_max == 10:  # these files were in the way already
        assert "and not even all of these: it" in gathered.complaint()
    else:
        assert paths(gathered) == ["main.py", "package", "package/__init__.py", "package/module.py"]
    assert f"only its Python files, since it {why}" in gathered.complaint()
    assert gathered.cut_short == (bounds.looked_max == 10)


def test_a_link_among_sources_comes_with_the_folders_that_it_lies_in(tmp_path: Path) -> None:
    """In a folder of results, say, of which nothing else goes along."""
    fill(tmp_path, "main.py", "model.py", "runs/first/data.bin", "runs/second/data.bin", "notes.txt")
    (tmp_path / "runs" / "first" / "model.py").symlink_to("../../model.py")
    (tmp_path / "runs" / "second" / "data.py").symlink_to("data.bin")
    gathered = look(tmp_path, Bounds(25, 100, 1000, 60.0))
    assert paths(gathered) == ["main.py", "model.py", "runs", "runs/first", "runs/first/model.py"]
    pack(gathered.found)
    few = look(tmp_path, Bounds(25, 4, 1000, 60.0))
    assert paths(few) == ["main.py", "model.py"]
    assert "not runs/first/model.py (they are too many)" in few.complaint()


@pytest.mark.parametrize("variable", ["MESHRAY_HOME", "MESHRAY_RUNTIME_DIR"])
def test_the_keys_of_the_mesh_never_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Nor logs and sockets: whoever has the program shall not have these."""
    program = tmp_path / "program"
    fill(
        program, "main.py", "table.csv", "mesh/mesh.key", "mesh/mesh.key.next", "mesh/inner/peer.py", "other/mesh/a.py"
    )
    (tmp_path / "link").symlink_to(program / "mesh")
    (program / "shown.key").symlink_to("mesh/mesh.key")
    for place in (program / "mesh", tmp_path / "link"):
        monkeypatch.setenv(variable, str(place))
        whole, sources = look(program), look(program, Bounds(10, 100, 1000, 60.0))
        assert paths(whole) == ["main.py", "other", "other/mesh", "other/mesh/a.py", "table.csv"]
        assert {"mesh", "mesh/inner/peer.py"}.isdisjoint(paths(sources))
    monkeypatch.setenv(variable, str(program / "mesh"))
    own = own_folder(None, str(program / "mesh"))
    assert own.shared == "it is meshray's own"
    assert paths(gather(own, BOUNDS, lambda: False)) == []


def test_too_many_sources(tmp_path: Path) -> None:
    """Those nearest to the root, and a word about the rest."""
    fill(tmp_path, *(f"deep/module{n}.py" for n in range(20)), "a.py", "z.py")
    gathered = look(tmp_path, Bounds(1 << 20, 5, 1000, 60.0))
    assert paths(gathered) == ["a.py", "deep", "deep/module0.py", "deep/module1.py", "z.py"]
    assert "not even all of these: it has more than 5 files" in gathered.complaint()


def test_a_slow_file_system(tmp_path: Path) -> None:
    fill(tmp_path, "a/b/c/d.py", "e.py")
    ticks = itertools.count()
    gathered = gather(Own(str(tmp_path)), Bounds(1 << 20, 100, 1000, 2.0), lambda: False, lambda: float(next(ticks)))
    assert "takes longer than 2 s to look through" in gathered.complaint()
    assert paths(gathered) == ["e.py"]


def test_a_folder_that_is_everybodys(tmp_path: Path) -> None:
    """Modules and packages, as far as they can be imported from there; nothing of other people's."""
    fill(tmp_path, "main.py", "package/__init__.py", "package/deep/module.py", "package/data.csv")
    fill(tmp_path, "letters/private.txt", "project/setup.py", "photo.jpg", "venv/__init__.py", "venv/pyvenv.cfg")
    (tmp_path / "linked.py").symlink_to("package/deep/module.py")
    gathered = look(tmp_path, shared="it is a home folder")
    assert paths(gathered) == [
        *("linked.py", "main.py", "package", "package/__init__.py", "package/deep", "package/deep/module.py"),
    ]
    assert gathered.complaint() == "only its Python files, since it is a home folder"


def test_a_shared_folder_with_sources_alone_is_no_cause_to_complain(tmp_path: Path) -> None:
    fill(tmp_path, "main.py")
    gathered = look(tmp_path, shared="it is a folder for everybody")
    assert paths(gathered) == ["main.py"]
    assert gathered.complaint() == ""


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        look(tmp_path / "nowhere")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    fill(tmp_path, "main.py")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.py"))).write_text("x")
    gathered = look(tmp_path)
    assert paths(gathered) == ["main.py"]
    assert "such names do not travel" in gathered.complaint()


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"link{number:02}").symlink_to("/etc")
    assert look(tmp_path).complaint() == (
        "not link00, link01, link02, link03, link04, ... (they lead out of the folder)"
    )


# -- what changes while it is read -------------------------------------------------------------------------------------


@pytest.fixture
def while_reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Have a function called, with the number of the time, after each read of a file."""

    def install(change: Callable[[int], None]) -> None:
        times = itertools.count()
        read = module._read_up_to

        def reading(fd: int, size: int) -> bytes:
            content = read(fd, size)
            change(next(times))
            return content

        monkeypatch.setattr(module, "_read_up_to", reading)

    return install


def test_a_file_that_changes_is_read_again(tmp_path: Path, while_reading: Callable[..., None]) -> None:
    (tmp_path / "main.py").write_text("old")

    def change(number: int) -> None:
        if number == 0:
            (tmp_path / "main.py").write_text("new and longer")

    while_reading(change)
    ((entry, content),) = look(tmp_path).found
    assert content == b"new and longer"
    assert entry.size == len(content)


def test_a_log_that_grows_for_ever(tmp_path: Path, while_reading: Callable[..., None]) -> None:
    log = tmp_path / "log.txt"
    log.write_text("a line\n")

    def change(_: int) -> None:
        with log.open("a") as file:
            file.write("a line\n")

    while_reading(change)
    ((entry, content),) = look(tmp_path).found
    assert content == b"a line\n" * module.READS_MAX
    assert entry.size == len(content)


def test_a_file_that_goes_is_not_part_of_it(tmp_path: Path, while_reading: Callable[..., None]) -> None:
    fill(tmp_path, "a.py", "b.py")
    while_reading(lambda _: (tmp_path / "b.py").unlink(missing_ok=True))
    gathered = look(tmp_path)
    assert paths(gathered) == ["a.py"]
    assert gathered.complaint() == ""


def test_a_file_that_grows_beyond_the_bound(tmp_path: Path, while_reading: Callable[..., None]) -> None:
    fill(tmp_path, "a.py", "b.bin")
    while_reading(lambda _: (tmp_path / "b.bin").write_bytes(bytes(2 << 20)))
    gathered = look(tmp_path)
    assert paths(gathered) == ["a.py"]
    assert "has more than 1 MiB" in gathered.complaint()


def test_a_folder_in_place_of_a_file(tmp_path: Path, while_reading: Callable[..., None]) -> None:
    fill(tmp_path, "a.py", "b.py")

    def change(_: int) -> None:
        (tmp_path / "b.py").unlink(missing_ok=True)
        (tmp_path / "b.py").symlink_to("/etc/passwd")

    while_reading(change)
    gathered = look(tmp_path)
    assert paths(gathered) == ["a.py"]
    assert gathered.complaint().startswith("not b.py (they cannot be read: ")


def test_it_stops_when_nobody_wants_it_any_more(tmp_path: Path) -> None:
    fill(tmp_path, "a.py")
    with pytest.raises(StoppedError):
        gather(Own(str(tmp_path)), BOUNDS, lambda: True, time.monotonic)
