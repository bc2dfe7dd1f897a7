"""`meshray key`: changing the key of a mesh, over the running mesh or by hand.

Over the mesh the peer of this host asks all members and reports (`peer.keyring`); here its report becomes lines, and
the exit code says whether everybody has followed. By hand only the files of this host change, and its running peers are
told to look at them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from meshray import meshkey
from meshray.cli.client import Visit
from meshray.cli.joining import read_given, tell_peers
from meshray.cli.members import aligned
from meshray.cli.showing import duration
from meshray.errors import MeshrayError
from meshray.local import find_peers
from meshray.meshkey import MeshKey
from meshray.observe.notes import printable

ANSWER_TIMEOUT_S = 60.0
"""Three questions to all members, each at most `key_ask_s`; and some."""

EVERYBODY, NOT_ALL = 0, 1
"""Exit codes: of a change over the mesh in which all have followed, or not."""


class NoMemberError(MeshrayError):
    """No peer of this host is a member of its mesh now; the text says what can be done instead."""


# -- over the mesh -----------------------------------------------------------------------------------------------------


def stage(again: bool) -> int:
    """Give all members the next key; the exit code. Raises `NoMemberError`, `UnreachableError`."""
    told = _ask("key stage", "again" if again else "")
    click.echo(f"Key {told['key_id']} is the next one of mesh {told['mesh_id']}.")
    lacking = _tell_members(told, _judge_next)
    if lacking:
        click.echo(
            f"{_count(lacking)} without it: `meshray key stage --again` gives it to those that are there by then. One "
            "that lacks it at the switch is shut out, and comes back by a token (`meshray join --replace`)."
        )
        return NOT_ALL
    whose = "All that are here" if _tell_away(told) else "All"
    click.echo(f"{whose} have it. To use it: meshray key switch")
    if whose != "All":
        click.echo(
            "Whoever is away is shut out at the switch, unless it had been given this key before: start it first, and "
            "`meshray key stage --again`; or give it a token afterwards (`meshray token | ssh OTHER meshray join "
            "--replace`)."
        )
    return EVERYBODY


def switch(expel: bool) -> int:
    """Have all members use the next key; the exit code. Raises as `stage`."""
    told = _ask("key switch", "expel" if expel else "")
    if not told["done"]:
        _tell_members(told, _judge_next)
        click.echo(
            "Nothing was changed, since not all have the next key: `meshray key stage --again` gives it to them, "
            "`meshray key switch --expel` goes on without them."
        )
        return NOT_ALL
    click.echo(f"Key {told['current']} is the current one of mesh {told['mesh_id']}.")
    behind = _tell_members(told, _judge_current)
    if behind:
        click.echo(
            f"{_count(behind)} not seen to use it. One that has it as its next key follows by itself, whenever it "
            "meets a member; one that never got it needs a token."
        )
        return NOT_ALL
    click.echo(f"All{' that are here' if _tell_away(told) else ''} use it; the old one is gone.")
    if _away(told):
        click.echo(
            "Whoever is away follows when it comes back, if it had been given this key; else it needs a token "
            "(`meshray token | ssh OTHER meshray join --replace`)."
        )
    return EVERYBODY


def which() -> None:
    """Which keys the members have. Raises as `stage`."""
    told = _ask("key which", "")
    click.echo(f"Mesh {told['mesh_id']}: key {told['current']}, next {told['next'] or 'none'}")
    _tell_members(told, _judge_nothing)


def _ask(what: str, argument: str) -> dict[str, Any]:
    peers = [record for record in find_peers() if record.mesh_port]
    if not peers:
        raise NoMemberError(
            "no peer of this host is a member of its mesh now: start one (`meshray start`), or ask on a host where one "
            "runs. On the files of this host alone work --here and --file"
        )
    with Visit(peers[0]) as visit:
        told: dict[str, Any] = visit.ask(what, argument, ANSWER_TIMEOUT_S)
    return told


def _tell_members(told: dict[str, Any], judge: Judge) -> int:
    """A line per member; how many are not as they should be."""
    rows, lacking = [], 0
    for member in told["members"]:
        good, text = judge(told, member) if member["answered"] else (False, "no answer")
        lacking += not good
        rows.append((printable(member["name"]), member["home"][:8] or "?", printable(text)))  # some is in its words
    for line in aligned(rows):
        click.echo(line)
    return lacking


def _away(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Who has ended lately. (A peer that was started before its program was replaced says nothing of it.)"""
    away: list[dict[str, Any]] = told.get("away", [])
    return away


def _tell_away(told: dict[str, Any]) -> int:
    """A line for each host that was not asked since it is away; how many there are."""
    for member in _away(told):
        how = "was stopped" if member["state"] == "left" else "is dead"
        click.echo(printable(f"  {member['name']}  away: its peer {how}, {duration(member['since_s'])} ago"))
    return len(_away(told))


Judge = Callable[[dict[str, Any], dict[str, Any]], tuple[bool, str]]
"""Of a report and what one member has answered: whether that is as it should be, and words for it."""


def _judge_next(told: dict[str, Any], member: dict[str, Any]) -> tuple[bool, str]:
    if told["key_id"] in (member["next"], member["current"]):
        return True, "has it"
    return False, f"lacks it: {member['trouble']}" if member["trouble"] else "lacks it"


def _judge_current(told: dict[str, Any], member: dict[str, Any]) -> tuple[bool, str]:
    good = member["current"] == told["key_id"]
    return good, "uses it" if good else f"uses key {member['current']}"


def _judge_nothing(told: dict[str, Any], member: dict[str, Any]) -> tuple[bool, str]:
    return True, f"key {member['current']}, next {member['next'] or 'none'}"


def _count(members: int) -> str:
    return "1 member is" if members == 1 else f"{members} members are"


# -- by hand -----------------------------------------------------------------------------------------------------------


def new() -> None:
    """Make the first key of a mesh, on this host, without starting a peer. Raises `MeshKeyError`."""
    key = MeshKey.generate()
    if not meshkey.make(key):
        raise meshkey.MeshKeyError(f"this host belongs to mesh {meshkey.load().mesh.hex()} already")
    click.echo(f"Mesh {key.founded_mesh().hex()} is made; its key is on this host only.")


def stage_here() -> None:
    """Make the next key, on this host. Raises `MeshKeyError`."""
    key = MeshKey.generate()
    meshkey.stage(key)
    _staged(key, True)


def stage_given(file: str) -> None:
    """Stage the key of a token. Raises `TokenError`, `TokenSourceError`, `MeshKeyError`."""
    given = read_given(file)
    _, changed = meshkey.stage(given.key, given.mesh)
    _staged(given.key, changed)


def _staged(key: MeshKey, changed: bool) -> None:
    click.echo(f"Key {key.id.hex()} {'is staged now' if changed else 'was here already'}, on this host.")
    click.echo("  to another member: meshray token --next | ssh OTHER meshray key stage --file -")
    click.echo("  when all that shall have it do: meshray key switch --expel")
    tell_peers()


def unstage() -> None:
    """Forget the next key, on this host. Raises `MeshKeyError`."""
    key = meshkey.unstage()
    click.echo("No next key is staged on this host." if key is None else f"Key {key.id.hex()} is forgotten here.")
    tell_peers()


def switch_here() -> None:
    """Make the next key the current one, on this host. Raises `MeshKeyError`."""
    keys = meshkey.switch()
    click.echo(f"Key {keys.current.id.hex()} is the current one now; the old one is gone from this host.")
    tell_peers()


def show() -> None:
    """Print the ids of what this host has; the keys themselves are not shown. Raises `MeshKeyError`."""
    keys = meshkey.load()
    click.echo(f"Mesh {keys.mesh.hex()}")
    click.echo(f"  key       {keys.current.id.hex()}")
    click.echo(f"  next key  {keys.next.id.hex() if keys.next is not None else 'none'}")
