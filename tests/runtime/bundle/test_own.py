"""Which folder is the program's own."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from meshray.runtime.bundle.own import Own, is_within, of_interpreter, own_folder

WORKING = "/somewhere/working"


def main(file: str | Path | None, name: str = "") -> ModuleType:
    """A `__main__` of this file; `name`: that of its spec."""
    module = ModuleType("__main__")
    if file is not None:
        module.__file__ = str(file)
    module.__spec__ = ModuleSpec(name, None) if name else None
    return module


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "program"
    (folder / "package" / "deep").mkdir(parents=True)
    (folder / "script.py").touch()
    return folder


def test_a_script(program: Path) -> None:
    assert own_folder(main(program / "script.py"), WORKING) == Own(str(program))


def test_a_script_that_is_linked_to(program: Path, tmp_path: Path) -> None:
    """Python itself looks where the link leads."""
    (tmp_path / "run").symlink_to(program / "script.py")
    assert own_folder(main(tmp_path / "run"), WORKING) == Own(os.path.realpath(program))


def test_a_folder_that_is_linked_to_has_two_names(program: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(program)
    own = own_folder(main(tmp_path / "linked" / "package" / "__main__.py", "package.__main__"), WORKING)
    assert own.names == [str(tmp_path / "linked"), os.path.realpath(program)]


@pytest.mark.parametrize(
    ("file", "name"), [("package/deep/run.py", "package.deep.run"), ("package/__main__.py", "package.__main__")]
)
def test_a_module_of_a_package(program: Path, file: str, name: str) -> None:
    assert own_folder(main(program / file, name), WORKING) == Own(str(program))


def test_a_module_without_a_package(program: Path) -> None:
    assert own_folder(main(program / "script.py", "script"), WORKING) == Own(str(program))


def test_a_folder_and_a_zip(program: Path) -> None:
    assert own_folder(main(program / "package" / "__main__.py", "__main__"), WORKING) == Own(str(program / "package"))
    (program / "app.zip").touch()
    assert own_folder(main(program / "app.zip" / "__main__.py", "__main__"), WORKING) == Own(str(program))


def test_a_folder_that_is_gone_is_nobody_elses(program: Path) -> None:
    assert own_folder(main(program / "gone" / "script.py"), WORKING) == Own(str(program / "gone"))


@pytest.mark.parametrize("module", [None, main(None), main("")])
def test_a_prompt_has_its_working_directory(module: ModuleType | None) -> None:
    assert own_folder(module, WORKING) == Own(WORKING)


def test_installed_programs_have_their_working_directory() -> None:
    scripts = Path(sysconfig.get_path("scripts"))
    assert own_folder(main(scripts / "pytest"), WORKING) == Own(WORKING)
    assert own_folder(main(Path(sys.executable).parent / "tool"), WORKING) == Own(WORKING)
    assert own_folder(main("/usr/bin/tool"), WORKING) == Own(WORKING)
    packages = Path(sysconfig.get_path("purelib"))
    assert own_folder(main(packages / "pytest" / "__main__.py", "pytest.__main__"), WORKING) == Own(WORKING)
    assert own_folder(main(Path(os.__file__).parent / "timeit.py", "timeit"), WORKING) == Own(WORKING)


def test_a_home_is_not_the_programs(program: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert own_folder(main(home / "script.py"), WORKING) == Own(str(home), "it is a home folder")
    assert own_folder(None, str(tmp_path)).shared == "it has home folders in it"
    (home / "project").mkdir()
    assert own_folder(main(home / "project" / "script.py"), WORKING) == Own(str(home / "project"))


def test_folders_of_everybody() -> None:
    for folder in ("/", "/tmp", "/usr", tempfile.gettempdir()):
        assert own_folder(None, folder).shared, folder


def test_what_comes_with_the_interpreter() -> None:
    stdlib = sysconfig.get_path("stdlib")
    theirs = [stdlib, f"{stdlib}/lib-dynload", *site.getsitepackages(), f"{Path(stdlib).parent}/python311.zip"]
    assert of_interpreter(["/program", *theirs, "/program/lib"]) == theirs


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0x7FFFFFFF)
    assert own_folder(None, WORKING) == Own(WORKING)


def test_within() -> None:
    assert is_within("/a/b", ["/a"])
    assert is_within("/a", ["/x", "/a"])
    assert not is_within("/ab", ["/a"])
    assert is_within("/a", ["/"])
