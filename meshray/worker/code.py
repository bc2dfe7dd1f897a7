"""What a worker of another host sees in place of the program's own folder: a copy of it.

Paths of the driver's that lie in its folder are turned into paths of the copy: the working directory, entries of
`sys.path`, the script's own name, and `__file__` of what was pickled from it. Other paths stay as they are: so far as
they exist on this host, they may mean the same.
"""

from __future__ import annotations

import linecache
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType
from typing import Any

import msgspec

from meshray.config import Config
from meshray.errors import RuntimeEnvSetupError
from meshray.runtime.bundle.archive import INDEX_MAX_BYTES
from meshray.runtime.bundle.copies import FOLDER, Copies
from meshray.runtime.bundle.own import of_interpreter
from meshray.wire.messages import Code, JobInfo


class Moved:
    """From the driver's folder to its copy. Without a copy all stays as it is."""

    def __init__(self, roots: Iterable[str] = (), copy: str = "", left_out: str = "") -> None:
        self._roots = [root.rstrip("/") for root in roots] if copy else []
        self._copy = copy
        self._left_out = left_out if copy else ""  # of the folder, for people
        self._mark = f"/{FOLDER}/{os.path.basename(copy)}/"  # in the path of any copy

    def __call__(self, path: str) -> str:
        """Where that path of the driver's lies here."""
        for root in self._roots:
            if path == (root or "/"):
                return self._copy
            if path.startswith(root + "/") and (root or os.path.lexists(self._copy + path)):  # nearly all is in "/"
                return self._copy + path[len(root) :]
        _, found, inside = path.partition(self._mark)  # of the copy of another host, whose worker has submitted this
        return f"{self._copy}/{inside}" if found and self._copy else path

    @property
    def where(self) -> str:
        """Where modules are looked for, for people."""
        if not self._roots:
            return "the program's own folder did not come to this host; what is installed must be installed here, too"
        return f"{self._there}; what lies elsewhere must be installed on each host"

    @property
    def missing(self) -> str:
        """Why a file of the driver's folder may not be here, for people; "" when all of it is."""
        return self._there if self._left_out else ""

    @property
    def _there(self) -> str:
        but = f" ({self._left_out})" if self._left_out else ""
        return f"of the program's own folder {self._roots[0] or '/'} this host has a copy{but}"

    def job(self, job: JobInfo) -> JobInfo:
        """The job, with its paths as they are here."""
        folder = self(job.folder)
        if (folder != job.folder or "" in self._roots) and not os.path.isdir(folder):
            folder = self._copy  # the program was started in a folder that does not go along
        # A virtual environment of this host may lie where the program does there: it stays where it is.
        stay = set(of_interpreter(job.sys_path))
        path = [each if each in stay else self(each) for each in job.sys_path]
        return msgspec.structs.replace(job, sys_path=path, folder=folder, main_path=self(job.main_path))

    def function(self, loaded: Any) -> None:
        """A function or class that was pickled from the script knows it by `__file__`, and its code by the driver's
        path, under which this host has no file, or another one: tracebacks take the lines of the copy."""
        if not self._roots:
            return
        members = [loaded, *vars(loaded).values()] if isinstance(loaded, type) else [loaded]
        for member in members:
            found = getattr(member, "__func__", member)  # of a class method, a static method
            if isinstance(found, FunctionType):
                file = found.__globals__.get("__file__")
                if isinstance(file, str):
                    found.__globals__["__file__"] = self(file)
                self._show_lines(found.__code__.co_filename)

    def _show_lines(self, path: str) -> None:
        """Whoever looks for lines of that path of the driver's finds those of the copy, for the rest of this process's
        life."""
        copy = self(path)
        if copy != path and (lines := linecache.getlines(copy)):
            linecache.cache[path] = (
                sum(map(len, lines)),
                None,
                lines,
                path,
            )  # without a time it is never looked at anew


def move_in(code: Code, node_folder: Path, config: Config, fetch: Callable[[], bytes | memoryview]) -> Moved:
    """Have the copy of this code here, for the rest of this process's life; `fetch` gets the archive where need be.

    Raises `RuntimeEnvSetupError`.
    """
    if not code.hash:
        return Moved()
    host = socket.gethostname()
    if code.size > config.code_max_bytes + INDEX_MAX_BYTES:
        raise RuntimeEnvSetupError(
            f"the program's own folder takes {code.size} bytes, and host {host} takes {config.code_max_bytes} at most"
        )
    copies = Copies(node_folder, config.code_max_files, config.code_kept_max)
    try:
        copy, _ = copies.use(code.hash, fetch)  # the descriptor is let go of by the end of this process
    except Exception as error:
        folder = f"the program's folder {code.roots[0]}" if code.roots else "the program's own folder"
        raise RuntimeEnvSetupError(
            f"host {host} could not make its copy of {folder} ({code.size} bytes, below {node_folder}): "
            f"{type(error).__name__}: {error}"
        ) from error
    return Moved(code.roots, str(copy), code.left_out)
