"""Memory for pieces on their way."""

from __future__ import annotations

import threading

import pytest

from meshray.peer.buffers import Buffers

SIZE = 1000


def test_a_buffer_comes_back_with_its_last_view() -> None:
    buffers = Buffers(SIZE)
    taken = buffers.take(SIZE)
    part = memoryview(taken)[10:20]
    del taken
    assert len(buffers) == 0, "a part of it is still held"
    del part
    assert len(buffers) == 1


def test_what_is_held_is_not_given_out_again() -> None:
    buffers = Buffers(SIZE)
    held = [buffers.take(SIZE) for _ in range(3)]
    for number, each in enumerate(held):
        each[:] = bytes([number]) * SIZE
    assert [bytes(each) for each in held] == [bytes([number]) * SIZE for number in range(3)]


def test_it_goes_round() -> None:
    buffers = Buffers(SIZE)
    for number in range(5):
        taken = buffers.take(SIZE - number)
        assert len(taken) == SIZE - number
        del taken
        assert len(buffers) == 1, "one at a time needs one"


def test_a_view_may_end_in_any_thread() -> None:
    buffers = Buffers(SIZE)
    held = [buffers.take(SIZE) for _ in range(8)]
    threads = [threading.Thread(target=held.pop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(buffers) == 8


@pytest.mark.parametrize("size", [0, 1, SIZE // 2 - 1, SIZE + 1])
def test_other_sizes_are_made_for_once(size: int) -> None:
    buffers = Buffers(SIZE)
    taken = buffers.take(size)
    assert len(taken) == size
    del taken
    assert len(buffers) == 0


def test_what_is_free_is_let_go_of() -> None:
    buffers = Buffers(SIZE)
    held = buffers.take(SIZE)
    buffers.take(SIZE)
    assert len(buffers) == 1
    buffers.clear()
    assert len(buffers) == 0
    del held  # comes back later
    assert len(buffers) == 1
