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
        stream.announce(name)
    assert stream.write("text\n") == 5
    print("more", file=stream)
    stream.close()
    os.close(into)
    with open(out, "rb") as file:
        assert file.read() == encode_marker("c") + b"text\nmore\n"


def test_what_is_written_past_the_stream_does_not_go_under_the_name_of_an_earlier_task() -> None:
    out, into = os.pipe()
    stream = SourceStream(into)
    stream.announce("a")
    stream.write("one\n")
    stream.announce("a")
    os.write(into, b"still under a\n")
    for name in ("b", "c"):
        stream.announce(name)
    os.write(into, b"under none\n")
    stream.write("two\n")
    os.close(into)
    with open(out, "rb") as file:
        told = [split_markers(line) for line in file.read().splitlines()]
    assert told == [
        (b"", "a"), (b"one", None), (b"still under a", None),
        (b"", ""), (b"under none", None), (b"", "c"), (b"two", None),
    ]  # fmt: skip


def test_a_task_that_closes_it_silences_no_other() -> None:
    out, into = os.pipe()
    stream = SourceStream(into)
    stream.announce("a")
    stream.write("one, not flushed")
    stream.close()
    assert not stream.closed
    stream.announce("b")
    print("two", file=stream)
    os.close(into)
    with open(out, "rb") as file:
        assert (
            file.read() == encode_marker("a") + b"one, not flushed" + encode_marker("") + encode_marker("b") + b"two\n"
        )


def test_a_task_that_closes_the_descriptor_fails_none_that_is_silent() -> None:
    out, into = os.pipe()
    stream = SourceStream(into)
    stream.announce("a")
    stream.write("one\n")
    os.close(into)
    os.close(out)
    stream.announce("b")
