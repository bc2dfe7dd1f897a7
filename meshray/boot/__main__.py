"""`python -P <this file>`: load the package that this file lies in, whatever `sys.path` says, and be a peer."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path


def _load_package() -> None:
    """Make `import meshray` mean the folder above this one, without putting anything into `sys.path`."""
    folder = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location(
        "meshray", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["meshray"] = package
    spec.loader.exec_module(package)


def _read_start() -> bytes:
    """All of descriptor 0, which is nothing afterwards: the length of `sys.path` (4 bytes), its entries, settings.

    The starter's entries that this interpreter does not have come last: the packages that meshray needs may be there.
    """
    parts = []
    while part := os.read(0, 65536):
        parts.append(part)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    data = b"".join(parts)
    end = 4 + int.from_bytes(data[:4], "big")
    sys.path += [path for path in os.fsdecode(data[4:end]).split("\0") if path and path not in sys.path]
    return data[end:]


if __name__ == "__main__":
    settings = _read_start()
    if "meshray" not in sys.modules:
        _load_package()
    from meshray.boot.process import end, main

    end(main(settings))
