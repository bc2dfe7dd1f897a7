"""The functions that a worker keeps: as long as a submitter counts on them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from meshray.wire.messages import Blob
from meshray.wire.payload import dumps_function, make_blob
from meshray.worker.functions import Functions

ONE, TWO = b"one".ljust(16, b"\0"), b"two".ljust(16, b"\0")


def closure(value: Any) -> Blob:
    def get() -> Any:
        return value

    return make_blob(dumps_function(get), f"get{value}")


def with_loaded(*submitters: bytes) -> tuple[Functions, Blob]:
    functions, blob = Functions(), closure(1)
    for submitter in submitters:
        functions.on_shipped(submitter, [blob], [])
    function, name = functions.load(blob.hash)
    assert (function(), name) == (1, "get1")
    return functions, blob


def test_what_a_submitter_lets_go_of_is_forgotten() -> None:
    functions, blob = with_loaded(ONE)
    assert functions.get(blob.hash) is not None
    functions.on_shipped(ONE, [closure(2)], [blob.hash])
    assert functions.get(blob.hash) is None
    assert blob.hash not in functions
    assert len(functions) == 1
    with pytest.raises(LookupError, match="is not at this worker"):
        functions.load(blob.hash)
    functions.on_shipped(ONE, [blob], [])
    assert functions.load(blob.hash)[0]() == 1


def test_one_that_was_never_loaded_is_forgotten_as_well() -> None:
    functions, blob = Functions(), closure(1)
    functions.on_shipped(ONE, [blob], [])
    assert functions.name_of(blob.hash) == "get1"
    functions.on_shipped(ONE, [closure(2)], [blob.hash])
    assert functions.name_of(blob.hash) == blob.hash.hex()


def test_it_stays_while_another_submitter_counts_on_it() -> None:
    functions, blob = with_loaded(ONE, TWO)
    functions.on_shipped(ONE, [], [blob.hash])
    assert functions.get(blob.hash) is not None
    functions.on_shipped(TWO, [], [blob.hash])
    assert functions.get(blob.hash) is None
    functions.on_shipped(TWO, [], [blob.hash])  # a repeat changes nothing


def test_what_a_submitter_counted_on_goes_with_it() -> None:
    functions, blob = with_loaded(ONE, TWO)
    other = closure(2)
    functions.on_shipped(ONE, [other], [])
    functions.on_submitter_gone(ONE, b"")
    assert [each.hash in functions for each in (blob, other)] == [True, False]
    functions.on_submitter_gone(TWO, b"")
    assert len(functions) == 0


def test_what_the_main_thread_may_be_about_to_use_stays_a_while() -> None:
    functions, at_hand, behind = Functions(), closure(1), closure(2)
    functions.on_shipped(ONE, [at_hand, behind], [])
    functions.on_submitter_gone(ONE, at_hand.hash)
    assert [each.hash in functions for each in (at_hand, behind)] == [True, False]
    assert functions.load(at_hand.hash)[0]() == 1
    functions.on_submitter_gone(TWO, at_hand.hash)
    assert functions.get(at_hand.hash) is not None, "it is still at hand"
    functions.on_submitter_gone(TWO, behind.hash)
    assert functions.get(at_hand.hash) is None


def test_a_submitter_that_was_out_of_reach_begins_anew() -> None:
    functions, at_hand, other = Functions(), closure(1), closure(2)
    functions.on_shipped(ONE, [at_hand], [])
    functions.on_submitter_gone(ONE, at_hand.hash)
    functions.on_shipped(ONE, [at_hand, other], [])
    functions.on_submitter_gone(TWO, other.hash)
    assert at_hand.hash in functions, "it came again"


def test_what_a_function_has_captured_ends_when_the_main_thread_loads_the_next_one() -> None:
    """Its end may run the user's code: not where messages are handled."""
    functions, blob = with_loaded(ONE)
    found = functions.get(blob.hash)
    assert found is not None
    ended = weakref.ref(found[0])
    del found
    functions.on_shipped(ONE, [closure(2)], [blob.hash])
    gc.collect()
    assert ended() is not None
    functions.load(closure(2).hash)
    gc.collect()
    assert ended() is None
