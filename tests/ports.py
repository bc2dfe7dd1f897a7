"""Ports for tests that must know one before somebody listens there."""

from __future__ import annotations

import random
import socket

LEAST, BEYOND = 15_000, 32_768
"""Below those that Linux draws for connections (`ip_local_port_range`): a port of these may be somebody's the moment
after it was found to be free."""


def free_port() -> int:
    """One of 127.0.0.1 at which nobody listens now, and which nobody is given by chance."""
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(LEAST, BEYOND)
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
