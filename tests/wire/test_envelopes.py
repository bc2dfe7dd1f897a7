"""Envelopes between peers."""

from __future__ import annotations

import pytest

from meshray.wire.envelopes import ENVELOPE_BYTES, enclose, opened

TO, FROM = b"t" * 16, b"f" * 16


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_enclosed_is_opened(kind: type) -> None:
    assert opened(kind(enclose(TO, FROM, b"data"))) == (TO, FROM, b"data")


@pytest.mark.parametrize("size", [0, 1, ENVELOPE_BYTES])
def test_what_is_too_short_is_none(size: int) -> None:
    assert opened(bytes(size)) is None
