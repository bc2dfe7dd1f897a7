"""Paths of the driver's, in the copy of its folder."""

from __future__ import annotations

import os
import socket
import traceback
from pathlib import Path

import cloudpickle
import msgspec
import pytest

from meshray.config import DEFAULT
from meshray.errors import RuntimeEnvSetupError
from meshray.runtime.bundle.archive import Entry, content_hash, pack
from meshray.wire.messages import Code, JobInfo
from meshray.worker.code import Moved, move_in

ARCHIVE = pack([(Entry("main.py", "file", 1), b"1"), (Entry("data", "folder"), b"")])
CODE = Code(content_hash(ARCHIVE), b"object", len(ARCHIVE), ["/home/u/program", "/real/program"])


def job(folder: str) -> JobInfo:
    path = ["/home/u/program", "/usr/lib/python3.11", "/real/program/lib", "/home/u/programs"]
    return JobInfo(b"job", "python", "/usr", path, folder, "/home/u/program/main.py", "ns")


def test_what_is_in_the_folder_moves_and_nothing_else(tmp_path: Path) -> None:
    moved = move_in(CODE, tmp_path, DEFAULT, lambda: ARCHIVE)
    copy = tmp_path / "code" / CODE.hash.hex()
    here = moved.job(job("/home/u/program/data"))
    assert here.sys_path == [str(copy), "/usr/lib/python3.11", f"{copy}/lib", "/home/u/programs"]
    assert here.folder == f"{copy}/data"
    assert here.main_path == f"{copy}/main.py"
    assert (copy / "main.py").read_text() == "1"
    assert str(copy) not in moved.where
    assert "/home/u/program" in moved.where
    assert moved.missing == ""


def test_whoever_misses_something_hears_what_did_not_go_along(tmp_path: Path) -> None:
    words = "only its Python files, since it is a home folder"
    moved = move_in(msgspec.structs.replace(CODE, left_out=words), tmp_path, DEFAULT, lambda: ARCHIVE)
    assert moved.missing == f"of the program's own folder /home/u/program this host has a copy ({words})"
    assert moved.where == f"{moved.missing}; what lies elsewhere must be installed on each host"


def test_of_a_program_in_the_root_only_what_went_along_moves(tmp_path: Path) -> None:
    """As in many containers: all other paths are in it as well."""
    moved = move_in(msgspec.structs.replace(CODE, roots=["/"]), tmp_path, DEFAULT, lambda: ARCHIVE)
    copy = tmp_path / "code" / CODE.hash.hex()
    assert [moved(path) for path in ("/", "/main.py", "/opt/library")] == [str(copy), f"{copy}/main.py", "/opt/library"]
    assert "folder / this host has a copy" in moved.where
    assert moved.job(job("/elsewhere")).folder == str(copy)


def test_a_virtual_environment_in_the_folder_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = move_in(CODE, tmp_path, DEFAULT, lambda: ARCHIVE)
    installed = "/home/u/program/.venv/lib/python3.11/site-packages"
    monkeypatch.setattr("site.getsitepackages", lambda: [installed])
    here = moved.job(msgspec.structs.replace(job("/"), sys_path=["/home/u/program", installed]))
    assert here.sys_path == [f"{tmp_path}/code/{CODE.hash.hex()}", installed]


def test_a_working_directory_that_did_not_go_along(tmp_path: Path) -> None:
    moved = move_in(CODE, tmp_path, DEFAULT, lambda: ARCHIVE)
    copy = tmp_path / "code" / CODE.hash.hex()
    assert moved.job(job("/home/u/program/.git")).folder == str(copy)
    assert moved.job(job("/elsewhere")).folder == "/elsewhere"


def test_paths_of_another_hosts_copy_move_as_well(tmp_path: Path) -> None:
    moved = move_in(CODE, tmp_path, DEFAULT, lambda: ARCHIVE)
    name = CODE.hash.hex()
    assert moved(f"/run/other/code/{name}/main.py") == f"{tmp_path}/code/{name}/main.py"
    assert moved("/run/other/code/another/main.py") == "/run/other/code/another/main.py"
    assert Moved()("/code//x") == "/code//x"


def test_no_copy_moves_nothing(tmp_path: Path) -> None:
    moved = move_in(Code(), tmp_path, DEFAULT, lambda: b"")
    assert moved.job(job("/home/u/program")) == job("/home/u/program")
    assert "did not come to this host" in moved.where
    assert list(tmp_path.iterdir()) == []


def test_what_was_pickled_from_the_script_finds_its_data() -> None:
    moved = Moved(["/home/u/program"], "/copy")
    space: dict[str, object] = {"__name__": "__main__", "__file__": "/home/u/program/main.py"}
    exec(
        "import os\n"
        "def beside(): return os.path.join(os.path.dirname(__file__), 'data.csv')\n"
        "class Reader:\n"
        "    def read(self): return beside()\n"
        "    @staticmethod\n"
        "    def static(): return __file__\n"
        "    @classmethod\n"
        "    def of_class(cls): return __file__\n",
        space,
    )
    function = cloudpickle.loads(cloudpickle.dumps(space["beside"]))
    moved.function(function)
    assert function() == "/copy/data.csv"
    reader = cloudpickle.loads(cloudpickle.dumps(space["Reader"]))
    moved.function(reader)
    assert reader().read() == "/copy/data.csv"
    assert reader.static() == reader.of_class() == "/copy/main.py"
    moved.function(os.path.join)  # of another file: nothing happens
    moved.function(len)
    assert os.path.__file__ == os.path.join.__globals__["__file__"]


def test_a_traceback_shows_the_lines_of_the_copy(tmp_path: Path) -> None:
    """Also where this host has another file under the driver's path."""
    program, copy = tmp_path / "program", tmp_path / "copy"
    text = "def task():\n    return 1 / 0  # of the driver\n"
    for folder, content in ((program, "def task():\n    pass  # of this host\n"), (copy, text)):
        folder.mkdir()
        (folder / "main.py").write_text(content)
    space: dict[str, object] = {"__name__": "__main__", "__file__": f"{program}/main.py"}
    exec(compile(text, f"{program}/main.py", "exec"), space)
    task = space["task"]
    moved = Moved([str(program)], str(copy))
    moved.function(task)
    with pytest.raises(ZeroDivisionError) as caught:
        task()  # type: ignore[operator]
    shown = "".join(traceback.format_exception(caught.value))
    assert f'{program}/main.py", line 2, in task\n    return 1 / 0  # of the driver' in shown


def fail() -> bytes:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("fetch", "why"),
    [(fail, "No space left on device"), (lambda: b"other", "its hash is"), (lambda: None, "TypeError")],
)
def test_why_there_is_no_copy(tmp_path: Path, fetch: object, why: str) -> None:
    with pytest.raises(RuntimeEnvSetupError, match=why) as caught:
        move_in(CODE, tmp_path, DEFAULT, fetch)  # type: ignore[arg-type]
    assert socket.gethostname() in str(caught.value)
    assert "/home/u/program" in str(caught.value)


def test_a_program_that_is_too_large_is_not_even_fetched(tmp_path: Path) -> None:
    code = Code(CODE.hash, b"object", 1 << 40)
    with pytest.raises(RuntimeEnvSetupError, match="at most"):
        move_in(code, tmp_path, DEFAULT, fail)
