"""Tools made of the API alone."""

from __future__ import annotations
