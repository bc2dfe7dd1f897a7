"""What workers printed, at the driver."""

from __future__ import annotations

import io
import sys

import pytest

from meshray.runtime.driver_logs import DriverLogs
from meshray.wire.messages import LogLine, LogLines

PEER = b"p" * 16


class Stream(io.StringIO):
    """Keeps what is written, by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str, /) -> int:
        self.writes.append(text)
        return len(text)


def test_a_line_and_its_end_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program prints at the same moment would else get our end of line, and we its line."""
    out, err = Stream(), Stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    shown: list[tuple[bytes, int]] = []
    logs = DriverLogs(True, lambda peer, weight: shown.append((peer, weight)))
    logs.on_lines(PEER, LogLines([LogLine("f", 7, "one", False), LogLine("f", 7, "two", True)]))
    logs.close()
    assert out.writes == ["(f pid=7) one\n"]
    assert err.writes == ["(f pid=7) two\n"]
    assert [peer for peer, _ in shown] == [PEER]
