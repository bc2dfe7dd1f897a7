"""Which folder is the program's own?

- A script's: where it lies.
- `python -m package.module`: where the package lies; `python folder`, `python program.zip`: the folder, where the zip
  lies.
- A prompt, a notebook, `python -c`, standard input, and programs that are installed (pytest, say): the working
  directory.

Some folders belong to nobody's program, even if one lies right there: `/`, a home, where everybody puts their
temporary files, where meshray has its keys. Of these only modules and packages go along, as far as they can be imported
from there.
"""

from __future__ import annotations

import os
import pwd
import re
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from types import ModuleType
from typing import NamedTuple

from meshray.local import places

SHARED = (
    *("/", "/tmp", "/var/tmp", "/dev/shm", "/home", "/mnt", "/media", "/opt", "/srv", "/etc", "/var", "/run"),
    *("/usr", "/usr/local", "/usr/share", "/usr/local/share"),
)
"""Folders of a host that no program has for itself (the Filesystem Hierarchy Standard names most of them)."""

_SYSTEM_PROGRAMS = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")
_STDLIB_ZIP = re.compile(r"python\d+t?\.zip")


class Own(NamedTuple):
    """The program's own folder."""

    folder: str  # absolute, as the program names it
    shared: str = ""  # why only the modules in it are the program's; "" when it is the program's with all that is in it

    @property
    def names(self) -> list[str]:
        """By what the folder is known: as the program names it, and where links lead."""
        return list(dict.fromkeys((self.folder, os.path.realpath(self.folder))))


def own_folder(main: ModuleType | None, working: str) -> Own:
    """The folder of a program with this `__main__`, started in the folder `working`."""
    folder = _folder_of(main) or working
    return Own(folder, _why_shared(folder))


def _folder_of(main: ModuleType | None) -> str:
    """Where the program lies; "" when it lies nowhere, or is installed."""
    file = getattr(main, "__file__", None)
    if not isinstance(file, str) or not file:
        return ""
    spec = getattr(main, "__spec__", None)
    name = getattr(spec, "name", "") or ""
    if name and name != "__main__":  # python -m name
        folder = os.path.dirname(os.path.abspath(file))
        for _ in range(name.count(".")):
            folder = os.path.dirname(folder)
    else:
        folder = os.path.dirname(os.path.abspath(file if name else os.path.realpath(file)))
    if os.path.isfile(folder):  # a zip
        folder = os.path.dirname(folder)
    return "" if _is_installed(folder) else folder


def _is_installed(folder: str) -> bool:
    real = os.path.realpath(folder)
    programs = {os.path.dirname(sys.executable), sysconfig.get_path("scripts"), *_SYSTEM_PROGRAMS}
    if site.ENABLE_USER_SITE:
        programs.add(os.path.join(site.getuserbase(), "bin"))
    return real in {os.path.realpath(each) for each in programs if each} or is_within(real, _libraries())


def _why_shared(folder: str) -> str:
    real = os.path.realpath(folder)
    homes = {os.path.expanduser("~")}
    try:
        homes.add(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        pass  # a user without a name, as in many containers
    for home in (os.path.realpath(each) for each in homes if os.path.isabs(each)):
        if home == real:
            return "it is a home folder"
        if home != "/" and is_within(home, [real]):
            return "it has home folders in it"
    if real in {os.path.realpath(each) for each in (*SHARED, tempfile.gettempdir())}:
        return "it is a folder for everybody"
    if real in our_folders():
        return "it is meshray's own"
    return ""


def our_folders() -> set[str]:
    """Where keys, logs and segments lie on this host, or would; real paths."""
    return {os.path.realpath(place) for place in places()}


def of_interpreter(sys_path: Iterable[str]) -> list[str]:
    """Those entries of the search path that come with the interpreter and its environment: every host has its own."""
    libraries = _libraries()
    return [
        path
        for path in sys_path
        if _STDLIB_ZIP.fullmatch(os.path.basename(path)) or is_within(os.path.realpath(path), libraries)
    ]


def _libraries() -> list[str]:
    """Where the standard library and what is installed lie, real paths."""
    found = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += site.getsitepackages()
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    return [os.path.realpath(path) for path in found if path]


def is_within(path: str, folders: Iterable[str]) -> bool:
    """Whether an absolute path is one of these folders, or inside of one. By name alone."""
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)
