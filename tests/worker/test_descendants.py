"""Orphans of workers, as the zygote sees them: here those of the process that runs the test."""

from __future__ import annotations

import os
import signal

from meshray.worker.descendants import LOOK_AGAIN_S, UNCLEAR_TIMEOUT_S, Descendants


def test_one_whose_environment_is_not_to_be_seen_is_looked_at_again_for_a_while() -> None:
    """As between the start of a program and the moment when its environment is there, of which nothing tells."""
    family = Descendants()
    assert family.next_expiry is None
    pid = os.posix_spawn("/bin/sleep", ["sleep", "600"], {})
    try:
        assert family.sweep(0.0)
        assert family.next_expiry == LOOK_AGAIN_S
        assert family.sweep(UNCLEAR_TIMEOUT_S / 2)
        assert family.next_expiry == UNCLEAR_TIMEOUT_S / 2 + LOOK_AGAIN_S
        assert not family.sweep(UNCLEAR_TIMEOUT_S)
        assert family.next_expiry is None
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)  # it lives: nothing says that it is a worker's
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
