"""Keys of meshes for tests."""

from __future__ import annotations

from meshray.meshkey import MeshKey, MeshKeys
from meshray.transport.keys import CurveKeys


def curve_keys(current: MeshKey | None = None, next_key: MeshKey | None = None) -> CurveKeys:
    """Of these mesh keys, or of one that nobody else has."""
    current = current or MeshKey.generate()
    return CurveKeys(MeshKeys(current.founded_mesh(), current, next_key))
