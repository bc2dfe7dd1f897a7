"""`meshray start`."""

from __future__ import annotations

import socket

import click

from meshray import meshkey
from meshray.config import DEFAULT
from meshray.errors import MeshrayError
from meshray.launch import MeshSettings, PeerSettings, Started, exec_peer, start_peer
from meshray.local import find_peers
from meshray.meshkey import MeshKey
from meshray.seeds import parse_seeds, seeds_from_environment

NEXT_MACHINE = "to bring the next machine in:  meshray token | ssh OTHER meshray join"


class NoMeshError(MeshrayError):
    """What was asked for needs a mesh, and this host belongs to none; the text says how it comes to one."""


def choose_mesh(local: bool, new: bool, seeds: str, bind: tuple[str, ...], port: int | None) -> MeshSettings | None:
    """How the peer shall join its mesh; None: it stays off the network, as it does without a key.

    With `new` the key is made. Raises `NoMeshError`, `MeshKeyError`, `SeedError`, `FolderError`.
    """
    given = [name for name, value in (("--join", seeds), ("--bind", bind), ("--port", port)) if value]
    if local and (new or given):
        raise click.UsageError(f"--local excludes {'--new' if new else given[0]}.")
    if new:
        _make_key()
    elif not meshkey.is_here() and given:
        raise NoMeshError(
            f"{given[0]} needs a mesh, and this host has no mesh key: bring one from a member (`meshray token | ssh "
            "THIS_HOST meshray join`), or make a mesh with --new"
        )
    if local or not meshkey.is_here():
        return None
    meshkey.load()  # what is wrong with it is told here, where somebody reads it
    chosen = [*parse_seeds(seeds), *seeds_from_environment()]
    return MeshSettings(seeds=[str(seed) for seed in chosen], bind=list(bind), port=port or DEFAULT.mesh_port)


def _make_key() -> None:
    key = MeshKey.generate()
    if not meshkey.make(key):
        raise meshkey.MeshKeyError(
            f"this host belongs to mesh {meshkey.load().mesh.hex()} already: `meshray start` without --new joins it"
        )
    click.echo(f"Mesh {key.founded_mesh().hex()} is made; its key is on this host only.")


def start(settings: PeerSettings, foreground: bool) -> None:
    """Start a standing peer; in the foreground, become it. Raises `PeerStartError`, `FolderError`."""
    if foreground:
        if settings.mesh is not None:
            click.echo(NEXT_MACHINE)
        exec_peer(settings)
    started = start_peer(settings)
    for warning in started.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(_described(started))


def _described(started: Started) -> str:
    record = started.record
    alone = len(find_peers()) == 1
    option = "" if alone or record.name == socket.gethostname() else f" --name {record.name}"
    attach = "meshray.init()" if alone else f"meshray.init({str(started.folder)!r})"
    lines = [
        f"Peer {record.name!r} serves (pid {record.pid}).",
        f"  programs on this host attach by themselves: {attach}",
        f"  look at it:  meshray status{option}",
        f"  stop it:     meshray stop{option}",
        f"  its log:     {started.folder / 'peer.log'}",
    ]
    if record.mesh_port:
        lines += [f"  it listens for its mesh at port {record.mesh_port}", f"  {NEXT_MACHINE}"]
    return "\n".join(lines)
