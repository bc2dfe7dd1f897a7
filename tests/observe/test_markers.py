"""Names of who prints, inside the stream."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from meshray.observe.markers import SourceStream, encode_marker, split_markers


@given(st.text())
def test_round_trip(name: str) -> None:
    marker = encode_marker(name)
    assert marker.endswith(b"\n")
    assert marker.count(b"\n") == 1
    text, back = split_markers(b"before" + marker[:-1])
    assert text == b"before"
    assert back is not None
    if name.isprintable() and len(name) < 200:
        assert back == name


def test_plain_lines() -> None:
    assert split_markers(b"plain") == (b"plain", None)
    assert split_markers(b"") == (b"", None)


def test_nothing_is_written_for_tasks_that_print_nothing() -> None:
    out, into = os.pipe()
    stream = SourceStream(into)
    for name in ("a", "b", "c"):
        stream.source = name
    assert stream.write("text\n") == 5
    print("more", file=stream)
    stream.close()
    os.close(into)
    with open(out, "rb") as file:
        assert file.read() == encode_marker("c") + b"text\nmore\n"
