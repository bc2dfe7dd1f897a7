"""Tools made of the API alone."""

from __future__ import annotations

from meshray.util import scheduling_strategies

__all__ = ["scheduling_strategies"]
