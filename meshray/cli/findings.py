"""What a check of `meshray doctor` gets, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from meshray.config import DEFAULT
from meshray.local import PeerRecord

Level = Literal["good", "unknown", "warning", "bad"]
"""`bad`: it surely keeps a mesh from working; `warning`: it may, or makes it worse; `unknown`: not told from here."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    about: str  # one word or two
    level: Level
    text: str
    hint: str = ""  # what mends it


def counted(count: int, noun: str) -> str:
    """`1 record`, `2 records`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Patient:
    """What the checks look at."""

    peer: PeerRecord | None  # the member that runs here, if one does
    mesh: dict[str, Any] = field(default_factory=dict)  # what it says of its mesh; empty without one
    trouble: str = ""  # why it says nothing

    @property
    def port(self) -> int:
        return self.peer.mesh_port if self.peer is not None else DEFAULT.mesh_port

    @property
    def bind(self) -> list[str]:
        return self.peer.mesh_bind if self.peer is not None else []

    def others(self) -> list[dict[str, Any]]:
        """The members that live, without this one."""
        return [
            member
            for member in self.mesh.get("members", ())
            if member["state"] in ("alive", "suspect") and not member["is_self"]
        ]
