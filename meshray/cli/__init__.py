"""What people type: `meshray start`, `stop`, `status`, and `token`, `join`, `key`.

    commands.py   the words and options, checked; every error of ours becomes a line, not a traceback
    starting.py   start
    stopping.py   stop: asked, then told, then forced, each for a bounded time
    showing.py    status, as text and as JSON
    members.py    the mesh in it, as text
    joining.py    token, join
    keys.py       key: another key, over the mesh or by hand
    doctor.py     doctor, with of_host.py and of_network.py
    client.py     a short visit at a peer: attach as an observer, ask, leave

`click` is imported only here, and only when a command runs.
"""

from __future__ import annotations


def main() -> None:
    """The console script."""
    from meshray.cli.commands import meshray

    meshray(prog_name="meshray")
