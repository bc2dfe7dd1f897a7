"""`meshray start`."""

from __future__ import annotations

import socket

import click

from meshray.launch import PeerSettings, Started, exec_peer, start_peer
from meshray.local import find_peers


def start(settings: PeerSettings, foreground: bool) -> None:
    """Start a standing peer; in the foreground, become it. Raises `PeerStartError`, `FolderError`."""
    if foreground:
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
    return "\n".join(
        [
            f"Peer {record.name!r} serves (pid {record.pid}).",
            f"  programs on this host attach by themselves: {attach}",
            f"  look at it:  meshray status{option}",
            f"  stop it:     meshray stop{option}",
            f"  its log:     {started.folder / 'peer.log'}",
        ]
    )
