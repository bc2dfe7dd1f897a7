"""`meshray stop`: ask for a clean end, then SIGTERM, then SIGKILL, each for a bounded time; then sweep."""

from __future__ import annotations

import os
import select
import signal
import time

import click

from meshray.cli.client import UnreachableError, Visit
from meshray.errors import MeshrayError
from meshray.local import PeerRecord, find_peers, open_peer, sweep

ASK_TIMEOUT_S = 2.0
"""How long a peer may take to say that it has heard; a hung one does not."""

LEAVE_TIMEOUT_S = 17.0
"""How long a peer may take beyond what its work was given: `leave_end_s`, `leave_move_s`, `leave_say_s`, and to end."""

TERM_TIMEOUT_S = 3.0
"""After the second signal a peer ends at once."""

KILL_TIMEOUT_S = 5.0


class StopError(MeshrayError):
    """There is nothing that could be stopped, or it would not; the text says why."""


def stop(name: str | None, everything: bool, timeout_s: float) -> None:
    """Stop the peer of that name, the only one, or all. Raises `StopError`."""
    chosen = _choose(find_peers(), name, everything)
    if not chosen:
        click.echo("No peer runs on this host.")
    for record in chosen:
        how = stop_peer(record, timeout_s)
        click.echo(f"Peer {record.name!r} (pid {record.pid}) {how}.")
    sweep()


def _choose(peers: list[PeerRecord], name: str | None, everything: bool) -> list[PeerRecord]:
    names = ", ".join(repr(record.name) for record in peers) or "none"
    if name is not None:
        chosen = [record for record in peers if record.name == name]
        if not chosen:
            raise StopError(f"no peer named {name!r} runs on this host (there are: {names})")
        return chosen
    if len(peers) > 1 and not everything:
        raise StopError(f"several peers run on this host ({names}): choose one by --name, or --all")
    return peers


def stop_peer(record: PeerRecord, timeout_s: float) -> str:
    """Stop one peer; how it ended, for people. Raises `StopError` when even SIGKILL does not end it."""
    pidfd = open_peer(record)
    if pidfd is None:
        return "had ended already"
    try:
        if _asked(record, timeout_s) and _ended(pidfd, timeout_s + LEAVE_TIMEOUT_S):
            return "stopped"
        if _signalled(pidfd, signal.SIGTERM, TERM_TIMEOUT_S):
            return "stopped by SIGTERM"
        if _signalled(pidfd, signal.SIGKILL, KILL_TIMEOUT_S):
            return "had to be killed"
    finally:
        os.close(pidfd)
    raise StopError(f"the peer {record.name!r} (pid {record.pid}) does not end, not even by SIGKILL")


def _asked(record: PeerRecord, work_s: float) -> bool:
    """Whether the peer has heard that it shall stop. It may end before its answer is out: then it has heard, too."""
    try:
        with Visit(record, ASK_TIMEOUT_S) as visit:
            visit.ask("stop", f"{work_s:g}", timeout_s=ASK_TIMEOUT_S)
    except UnreachableError:
        pidfd = open_peer(record)
        if pidfd is None:
            return True
        os.close(pidfd)
        return False
    return True


def _signalled(pidfd: int, number: signal.Signals, timeout_s: float) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return True
    return _ended(pidfd, timeout_s)


def _ended(pidfd: int, timeout_s: float) -> bool:
    """Whether the process ends within the time."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    give_up_at = time.monotonic() + timeout_s
    return bool(poll.poll(max(0.0, give_up_at - time.monotonic()) * 1000))
