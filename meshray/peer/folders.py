"""Are the folders in which others reach this peer still its own?

Somebody may take them away: systemd removes `/run/user/UID` when the last login of a user ends, and what is theirs in
/dev/shm; so does whoever tidies up /tmp. The peer does not feel it: its sockets are open, and connections stand. But no
program finds it any more, no worker that it starts can attach, and the mesh would take it for a host like any other. So
it looks, now and then, and ends in order when a folder is gone or is another one: others take over its work.

Not so the peer of a single program: nobody else looks for it, the program is connected already, and so are the workers
that it has. Nobody would take over its work.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from meshray.errors import MeshrayError
from meshray.peer.parts import Parts


class FolderLostError(MeshrayError):
    """A peer has ended since a folder of its own was removed; the text says which, and what prevents it."""


class OwnFolders:
    """Looks at the folders of a peer as often as `Config.folders_look_s` says, from its making on."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._own = {folder: _identity(os.stat(folder)) for folder in (parts.folder, parts.store_folder)}
        self.lost = ""  # what has happened, and what prevents it, for people; "" while all are there
        if not parts.record.private:
            self._again()

    def _again(self) -> None:
        self._parts.timers.at(time.monotonic() + self._parts.config.folders_look_s, self._look)

    def _look(self) -> None:
        parts = self._parts
        if parts.leaving or parts.stopping:
            return
        for folder, own in self._own.items():
            if is_another(folder, own):
                self.lost = describe(folder, is_store=folder == parts.store_folder)
                parts.leave(self.lost, parts.config.leave_work_s)
                return
        self._again()


def is_another(folder: Path, own: tuple[int, int]) -> bool:
    """Whether nothing is at this path any more, or something else than the folder that we made there. What cannot be
    looked at now for another reason is taken to be as it was."""
    try:
        return _identity(os.stat(folder)) != own
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


def _identity(found: os.stat_result) -> tuple[int, int]:
    """By which a folder is told from another one at its path."""
    return found.st_dev, found.st_ino


def describe(folder: Path, is_store: bool) -> str:
    """What the loss of a folder means, and what prevents it, for people."""
    what, instead = "programs and workers reach it", ", or MESHRAY_RUNTIME_DIR, a folder elsewhere"
    if is_store:
        what, instead = "its large values are", ""
    return (
        f"the folder {folder}, in which {what}, was removed, as systemd does when the last login of a user ends. "
        f"`loginctl enable-linger` keeps it{instead}"
    )
