"""`meshray start`."""

from __future__ import annotations

import functools
import shlex
import socket
import time
from collections.abc import Callable

import click

from meshray import crashes, meshkey
from meshray.cli.client import UnreachableError, Visit
from meshray.cli.showing import describe_crash
from meshray.config import DEFAULT
from meshray.errors import MeshrayError
from meshray.launch import MeshSettings, PeerSettings, Started, exec_peer, start_peer
from meshray.local import PeerRecord, find_peers
from meshray.meshkey import MeshKey
from meshray.observe.notes import printable
from meshray.seeds import SEEDS_VARIABLE, parse_seeds, seeds_from_environment, seeds_from_file

OTHERS_WAIT_S = 0.8
"""How long `start` waits for a word of the mesh, to tell people that it is there. (A peer is a member after some tenths
of a second.)"""

OTHERS_LOOK_S = 0.05
OTHERS_SHOWN_MAX = 3

NEXT_MACHINE = "to bring the next machine in:  meshray token | ssh OTHER meshray join"


HOW_TO_JOIN = (
    "To belong to it, on one of its members:  meshray token | ssh {here} meshray join\n"
    "  and then here:  meshray start\n"
    "To make another mesh:  meshray start --new\n"
    "To stay off the network:  meshray start --local"
)


class NoMeshError(MeshrayError):
    """What was asked for needs a mesh, and this host belongs to none; the text says how it comes to one."""


class OtherMeshError(MeshrayError):
    """This host has no key, and somebody on its network has a mesh; the text says how to join it, or not to."""


def choose_mesh(local: bool, new: bool, seeds: str, bind: tuple[str, ...], port: int | None) -> MeshSettings | None:
    """How the peer shall join its mesh; None: it stays off the network.

    Nothing is made yet. Raises `NoMeshError`, `MeshKeyError`, `SeedError`, `FolderError`, `InterfaceError`.
    """
    given = [name for name, value in (("--join", seeds), ("--bind", bind), ("--port", port)) if value]
    if local and (new or given):
        raise click.UsageError(f"--local excludes {'--new' if new else given[0]}.")
    if local:
        return None
    joined = seeds_from_file(seeds[1:]) if seeds.startswith("@") else parse_seeds(seeds)
    chosen = [*joined, *seeds_from_environment()]
    if meshkey.is_here():
        keys = meshkey.load()  # what is wrong with it is told here, where somebody reads it
        if new:
            raise meshkey.MeshKeyError(
                f"this host belongs to mesh {keys.mesh.hex()} already: `meshray start` without --new joins it"
            )
    elif chosen and not new:
        raise NoMeshError(
            f"{'--join' if seeds else SEEDS_VARIABLE} needs a mesh, and this host has no mesh key: bring one from a "
            "member (`meshray token | ssh THIS_HOST meshray join`), or make a mesh with --new"
        )
    if bind:
        from meshray.transport.interfaces import check_bind, look  # psutil takes 20 ms

        check_bind(look(), bind)
    return MeshSettings(seeds=[str(seed) for seed in chosen], bind=list(bind), port=port or DEFAULT.mesh_port)


def start(settings: PeerSettings, foreground: bool, new: bool) -> None:
    """Start a standing peer; in the foreground, become it. A peer of the network whose host has no key makes a mesh:
    with `new` whatever is on the network, else only where no other mesh is heard.

    Raises `PeerStartError`, `FolderError`, `MeshKeyError`, `OtherMeshError`.
    """
    begin = functools.partial(_begin, settings, foreground)
    had_key = meshkey.is_here()
    if settings.mesh is None or had_key:
        started = begin()
    elif new:
        _make_key()
        started = begin()
    else:
        started = _found(settings.mesh, begin)
    if started is None:
        exec_peer(settings)
        return
    for warning in started.warnings:
        click.echo(f"warning: {warning}", err=True)
    crash = crashes.of_peer(started.record.name)
    if crash is not None:
        click.echo(f"note: {describe_crash(crash)}", err=True)
    joins = had_key and bool(started.record.mesh_port) and started.listens
    click.echo(_described(started, _wait_others(started.record) if joins else None))


def _wait_others(record: PeerRecord) -> list[str]:
    """The names of the other members of its mesh, as soon as there are some; none when there are none in time, or the
    peer does not say. (It serves the programs of this host all the while.)"""
    give_up_at = time.monotonic() + OTHERS_WAIT_S
    try:
        with Visit(record, OTHERS_WAIT_S) as visit:
            while True:
                mesh = visit.ask("status", timeout_s=OTHERS_WAIT_S)["mesh"]
                others = [member for member in mesh["members"] if member["state"] == "alive" and not member["is_self"]]
                if others or time.monotonic() >= give_up_at:
                    return sorted(member["name"] for member in others)
                time.sleep(OTHERS_LOOK_S)
    except UnreachableError:
        return []


def _begin(settings: PeerSettings, foreground: bool) -> Started | None:
    """The peer, started; None: this process is to become it."""
    if not foreground:
        return start_peer(settings)
    if settings.mesh is not None:
        click.echo(NEXT_MACHINE)
    return None


def _found(mesh: MeshSettings, begin: Callable[[], Started | None]) -> Started | None:
    """Make a mesh, and `begin` its first peer, unless there is one on this network, or somebody else makes one."""
    from meshray.transport.founding import Heard, Rival, found  # mDNS: only where it is needed

    began = False

    def make() -> Started | None:
        nonlocal began
        began = True
        _make_key()
        return begin()

    click.echo(f"This host has no mesh key: listening for a mesh on its network, {DEFAULT.discovery_listen_s:g} s.")
    try:
        outcome = found(make, tuple(mesh.bind))
    except OSError as error:
        if began:
            raise
        click.echo(
            f"warning: whether there is a mesh cannot be heard, since mDNS cannot be used ({error.strerror or error})",
            err=True,
        )
        return make()
    how = HOW_TO_JOIN.format(here=socket.gethostname())
    if isinstance(outcome, Heard):
        where = f" (a member: {', '.join(outcome.hosts)})" if outcome.hosts else ""
        raise OtherMeshError(f"there is a mesh on this network already: {outcome.mesh.hex()}{where}.\n{how}")
    if isinstance(outcome, Rival):
        where = f" ({', '.join(outcome.hosts)})" if outcome.hosts else ""
        raise OtherMeshError(f"another host of this network{where} makes its mesh at this moment.\n{how}")
    return outcome


def _make_key() -> None:
    key = MeshKey.generate()
    if meshkey.make(key):
        click.echo(f"Mesh {key.founded_mesh().hex()} is made; its key is on this host only.")
    else:  # somebody else was quicker, who shares our home
        click.echo(f"This host belongs to mesh {meshkey.load().mesh.hex()}, which was made at this moment.")


def _described(started: Started, others: list[str] | None = None) -> str:
    """What people are told of it. `others`: members of its mesh; None: it has just made it, or they were not waited
    for."""
    record = started.record
    alone = len(find_peers()) == 1
    option = "" if alone else f" --name {shlex.quote(record.name)}"
    attach = "by themselves: meshray.init()" if alone else f"to this one: meshray.init({str(started.folder)!r})"
    lines = [
        f"Peer {record.name!r} serves (pid {record.pid}).",
        f"  programs on this host attach {attach}",
        f"  look at it:  meshray status{option}",
        f"  stop it:     meshray stop{option}",
        f"  its log:     {started.folder / 'peer.log'}",
    ]
    if record.mesh_port and not started.listens:
        lines.append(f"  its port, once there is an interface to listen at:  {record.mesh_port}")
    elif record.mesh_port:
        place = f"it listens at port {record.mesh_port}"
        if others:
            shown = ", ".join(others[:OTHERS_SHOWN_MAX]) + (", ..." if len(others) > OTHERS_SHOWN_MAX else "")
            lines.append(printable(f"  it is in its mesh, beside {shown}; {place}"))
        elif others is not None:
            lines.append(
                f"  no other member of its mesh has answered yet: `meshray status{option}` says later; {place}"
            )
        else:
            lines.append(f"  it is the first of its mesh; {place}")
        lines.append(f"  {NEXT_MACHINE}")
    return "\n".join(lines)
