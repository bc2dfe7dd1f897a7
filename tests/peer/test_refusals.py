"""When something was refused last."""

from __future__ import annotations

from collections import Counter

from meshray.peer.refusals import Refusals


def test_each_reason_has_its_own_time() -> None:
    refusals, counts = Refusals(), Counter({"unknown key": 1})
    refusals.look(counts, 10.0)
    refusals.look(counts, 20.0)
    assert refusals.ago(20.0) == {"unknown key": 10.0}
    counts["no key"] += 1
    refusals.look(counts, 21.0)
    counts["unknown key"] += 2
    refusals.look(counts, 25.0)
    assert refusals.ago(30.0) == {"unknown key": 5.0, "no key": 9.0}
