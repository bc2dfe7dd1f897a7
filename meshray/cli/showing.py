"""`meshray status`: what each peer of this host says of itself, for people and for programs."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from meshray import crashes
from meshray.cli.client import UnreachableError, Visit
from meshray.cli.findings import counted
from meshray.cli.members import describe_mesh
from meshray.crashes import Crash
from meshray.local import PeerRecord, find_peers
from meshray.observe.notes import printable

_SHOWN_MAX = 10  # lines of one list
NO_SCRIPT = "python without a script"  # interactive, -c, a notebook
WATCH_S = 1.0


def show(name: str | None, everything: bool, as_json: bool) -> int:
    """Print the status of the chosen peers; the exit code: 1 when there is none or one does not answer."""
    peers = [record for record in find_peers(private=everything) if name in (None, record.name)]
    told = [_ask(record) for record in peers]
    if as_json:
        click.echo(json.dumps(told, indent=2))
    elif told:
        click.echo("\n\n".join(describe(status) for status in told))
    elif name is not None:
        click.echo(f"No peer named {name!r} runs on this host.")
    else:
        click.echo("No peer runs on this host. Start one: meshray start")
    if not as_json:
        for crash in crashes.found():
            if name is None or crash == crashes.of_peer(name):
                click.echo(f"\n{describe_crash(crash)}")
    return 0 if told and not any("error" in status for status in told) else 1


def watch(name: str | None, everything: bool, as_json: bool) -> int:
    """Show it again and again; Ctrl-C ends it, as it should. The exit code is that of `show`, the last time."""
    code = 0
    try:
        while True:
            click.clear()  # does nothing where the output is no terminal
            code = show(name, everything, as_json)
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return code


def describe_crash(crash: Crash) -> str:
    """One line about a peer that left its log."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(crash.at))
    return f"A peer {crash.name!r} has crashed, or lost its folder ({at}); the end of its log: {crash.log}"


def _ask(record: PeerRecord) -> dict[str, Any]:
    try:
        with Visit(record) as visit:
            status: dict[str, Any] = visit.ask("status")
            return status
    except UnreachableError as error:
        return {"name": record.name, "pid": record.pid, "node_id": record.node, "error": str(error)}


def describe(status: dict[str, Any]) -> str:
    """The status of one peer, a screen at most."""
    if "error" in status:
        return f"Trouble: {status['error']}"
    total, free = status["resources"]["total"], status["resources"]["available"]
    kind = " of one program" if status["private"] else ""
    lines = [
        f"Peer {status['name']!r}{kind} (pid {status['pid']}, up {duration(status['uptime_s'])}), "
        f"meshray {status['version']}, Python {status['python']}"
        + (f"; it is being stopped ({status['leaving']})" if status["leaving"] else "")
    ]
    for name in sorted(total, key=lambda name: (name not in ("CPU", "GPU"), name)):
        if name != "object_store_memory":
            amount = size if name == "memory" else number
            lines.append(_line(name, f"{amount(total[name] - free[name])} of {amount(total[name])} in use"))
    store = status["store"]
    room = f"{size(store['sealed_bytes'])} in {counted(store['objects'], 'object')}, of {size(store['capacity_bytes'])}"
    lines.append(_line("objects", room))
    lines.append(_line("workers", _counts(status["workers"])))
    lines.append(_line("actors", _counts(status["actors"]["counts"])))
    lines += _list("programs", [f"{driver['name'] or NO_SCRIPT} (pid {driver['pid']})" for driver in status["drivers"]])
    lines += _list("waiting", [_waiting(entry) for entry in status["waiting"]])
    if status.get("mesh") is not None:
        lines += describe_mesh(status["mesh"], duration, _amount)
    return "\n".join(lines)


def _amount(name: str, quantity: float) -> str:
    return size(quantity) if name in ("memory", "store") else number(quantity)


def _waiting(entry: dict[str, Any]) -> str:
    request = ", ".join(f"{name}: {number(amount)}" for name, amount in entry["request"].items())
    of = "" if not entry["host"] else f" of {entry['host']}" if entry["is_actor"] else f", and waits on {entry['host']}"
    why = f" - {entry['reason']}" if entry["reason"] else ""
    return printable(f"{entry['count']} x {entry['name'] or '?'} {{{request}}}{of}{why}")  # some is in others' words


def _list(title: str, entries: list[str]) -> list[str]:
    lines = [_line(title if not place else "", entry) for place, entry in enumerate(entries[:_SHOWN_MAX])]
    if len(entries) > _SHOWN_MAX:
        lines.append(_line("", f"and {len(entries) - _SHOWN_MAX} more"))
    return lines


def _line(title: str, text: str) -> str:
    return f"  {title:<10} {text}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none"


def number(quantity: float) -> str:
    """A quantity of a resource, without noise behind the point."""
    return f"{round(quantity, 4):g}"


def size(count: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """A time span, its two largest units."""
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{count} {unit}" for count, unit in parts[:2])
