"""Conditions on labels, as hosts meet them."""

from __future__ import annotations

import pytest

from meshray.strategy import ANYWHERE, LabelTest, Strategy

IN, NOT_IN = LabelTest("zone", ("a", "b")), LabelTest("zone", ("a", "b"), True)
EXISTS, DOES_NOT_EXIST = LabelTest("zone"), LabelTest("zone", (), True)


@pytest.mark.parametrize(
    ("labels", "met"),
    [({"zone": "a"}, {IN, EXISTS}), ({"zone": "c"}, {NOT_IN, EXISTS}), ({"disk": "a"}, {NOT_IN, DOES_NOT_EXIST})],
)
def test_which_hosts_meet_a_condition(labels: dict[str, str], met: set[LabelTest]) -> None:
    assert {test for test in (IN, NOT_IN, EXISTS, DOES_NOT_EXIST) if test.met_by(labels)} == met


def test_all_conditions_must_be_met() -> None:
    strategy = Strategy(hard=(IN, LabelTest("disk")), wished=(LabelTest("gpu"), LabelTest("fast")))
    assert strategy.admits({"zone": "b", "disk": ""})
    assert not strategy.admits({"zone": "b"})
    assert strategy.prefers({"gpu": "x", "fast": "y"})
    assert not strategy.prefers({"gpu": "x"})
    assert ANYWHERE.admits({})
    assert ANYWHERE.prefers({})


def test_what_people_read() -> None:
    assert str(Strategy(hard=(IN, NOT_IN, EXISTS, DOES_NOT_EXIST))) == "zone=a|b, zone!=a|b, zone, no zone"
    assert str(Strategy(node=b"\xab" * 8)) == "node abababababababab"
    assert str(ANYWHERE) == ""
