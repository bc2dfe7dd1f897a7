"""A job of another host, as workers of this one can serve it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from meshray.peer.foreign import as_here
from meshray.wire.messages import Code, JobInfo

NOWHERE = "/nowhere/program"


def info(folder: str, code: Code | None, *path: str) -> JobInfo:
    return JobInfo(b"job", "/their/python", "/their", list(path), folder, f"{NOWHERE}/main.py", "ns", code=code)


@pytest.fixture
def library(tmp_path: Path) -> str:
    """A folder of the driver's path that this host has, too."""
    return str(tmp_path)


def test_the_copied_folder_stays_as_it_is_and_others_must_be_there(library: str) -> None:
    code = Code(b"hash", b"object", 10, [NOWHERE, "/real"], ["/usr", "/their/site-packages"])
    path = [NOWHERE, "/usr", f"{NOWHERE}/lib", "/their/site-packages", library, "/not/here", "/real/lib"]
    here = as_here(info(f"{NOWHERE}/data", code, *path))
    assert here.sys_path[:4] == [NOWHERE, f"{NOWHERE}/lib", library, "/real/lib"]
    assert here.sys_path[4:] == [path for path in sys.path if path and path != library]
    assert (here.executable, here.prefix) == (sys.executable, sys.prefix)
    assert here.folder == f"{NOWHERE}/data"
    assert here.code == code


def test_a_virtual_environment_in_the_programs_folder_is_its_interpreters(library: str) -> None:
    installed = f"{NOWHERE}/.venv/lib/site-packages"
    code = Code(b"hash", b"object", 10, [NOWHERE], [installed])
    here = as_here(info(NOWHERE, code, NOWHERE, installed, library))
    assert here.sys_path[:2] == [NOWHERE, library]
    assert installed not in here.sys_path


def test_a_working_directory_outside_of_the_copy(library: str) -> None:
    code = Code(b"hash", b"object", 10, [NOWHERE])
    assert as_here(info(library, code)).folder == library
    assert as_here(info("/not/here", code)).folder == NOWHERE


@pytest.mark.parametrize("code", [None, Code(), Code(roots=[NOWHERE])])
def test_without_a_copy_only_what_is_there_counts(library: str, code: Code | None) -> None:
    here = as_here(info(NOWHERE, code, NOWHERE, library))
    assert here.sys_path[0] == library
    assert NOWHERE not in here.sys_path
    assert here.folder == os.getcwd()
