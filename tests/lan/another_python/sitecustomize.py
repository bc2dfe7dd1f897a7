"""Another minor version of Python, as far as meshray tells: Python imports this file by itself, before anything else,
where its folder is in PYTHONPATH. `TEST_PYTHON` names the version.

The interpreter is the same as everywhere, so code of another version would run; a test sees that none comes.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        assert module.PYTHON, "it is said elsewhere by now"
        module.PYTHON = os.environ["TEST_PYTHON"]  # type: ignore[attr-defined]


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "meshray.local":
            return None
        spec: Any = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = _Loader(spec.loader)
        return spec


if "TEST_PYTHON" in os.environ:
    sys.meta_path.insert(0, _Finder())
