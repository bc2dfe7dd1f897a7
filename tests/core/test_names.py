"""Which actor has this name?"""

from __future__ import annotations

from meshray.core.names import Names

ONE, TWO = b"1" * 24, b"2" * 24


def test_the_first_has_it_until_it_is_released() -> None:
    names = Names()
    assert names.claim("space", "name", ONE) == ONE
    assert names.claim("space", "name", TWO) == ONE
    names.release(TWO)  # it never had it
    assert names.find("space", "name") == ONE
    names.release(ONE)
    assert names.find("space", "name") is None
    assert names.claim("space", "name", TWO) == TWO
    assert list(names) == [("space", "name", TWO)]


def test_namespaces_are_apart_and_hinted_at() -> None:
    names = Names()
    names.claim("b", "name", ONE)
    names.claim("a", "name", TWO)
    assert (names.find("a", "name"), names.find("b", "name"), names.find("c", "name")) == (TWO, ONE, None)
    assert names.others("c", "name") == ["a", "b"]
    assert names.others("a", "name") == ["b"]
    assert len(names) == 2
