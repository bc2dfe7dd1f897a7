"""`meshray stop`: ask for a clean end, then SIGTERM, then SIGKILL, each for a bounded time; then sweep.

A clean end takes as long as the work that is there. After a moment it is said what is waited for, and that Ctrl-C goes
on with the next step at once.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Any

import click

from meshray.cli.client import UnreachableError, Visit
from meshray.errors import MeshrayError
from meshray.local import PeerRecord, find_peers, open_peer, sweep

ASK_TIMEOUT_S = 2.0
"""How long a peer may take to say that it has heard; a hung one does not."""

LEAVE_TIMEOUT_S = 17.0
"""How long a peer may take beyond what its work was given: `leave_end_s`, `leave_move_s`, `leave_say_s`, and to end."""

SILENT_S = 1.0
"""An end that takes longer is worth a word."""

LOOK_S = 0.5
"""How often the peer is asked what it waits for, once it takes longer."""

SAY_AGAIN_S = 5.0
"""Of the same step, with other numbers."""

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
        if _asked(record, timeout_s) and _drained(record, pidfd, timeout_s + LEAVE_TIMEOUT_S):
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


def _drained(record: PeerRecord, pidfd: int, timeout_s: float) -> bool:
    """Whether the peer, which has heard, ends within the time; says what it waits for. False also for Ctrl-C."""
    give_up_at = time.monotonic() + timeout_s
    told, tell_at = "", 0.0
    try:
        if _ended(pidfd, min(SILENT_S, timeout_s)):
            return True
        while (now := time.monotonic()) < give_up_at:
            drain = _ask_drain(record)
            text = describe_drain(drain)
            if text and (drain["phase"] != told or now >= tell_at):
                click.echo(f"Peer {record.name!r} (pid {record.pid}) {text}. Ctrl-C ends it at once.")
                told, tell_at = drain["phase"], now + SAY_AGAIN_S
            if _ended(pidfd, min(LOOK_S, give_up_at - now)):
                return True
    except KeyboardInterrupt:
        click.echo("")  # behind the ^C of the terminal
    return False


def _ask_drain(record: PeerRecord) -> dict[str, Any]:
    """What the peer waits for; nothing when it does not answer: it may end just now."""
    try:
        with Visit(record, ASK_TIMEOUT_S) as visit:
            found: dict[str, Any] = visit.ask("drain", timeout_s=ASK_TIMEOUT_S)
    except UnreachableError:
        return {}
    return found


def describe_drain(drain: dict[str, Any]) -> str:
    """What a peer that is being stopped does, for people (`peer.draining`); "" when it says nothing."""
    if not drain:
        return ""
    counts = [(drain["tasks"], "task"), (drain["actors"], "actor"), (drain["values"], "value")]
    parts = [f"{count} {what}{'s' if count > 1 else ''}" for count, what in counts if count]
    what = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    doing = {
        "works": f"waits for {what or 'what runs'} to end",
        "ends": f"hands back {what or 'what still runs'}",
        "moves": f"moves {what or 'what others need'} to other hosts",
    }.get(drain["phase"], "tells other hosts that it leaves")
    return f"{doing}, for {drain['seconds']:.0f} s at most"


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
