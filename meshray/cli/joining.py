"""`meshray token`, `meshray join`, `meshray key`: becoming a member, bringing in others, and changing the key.

All of it is about files so far; what needs a running mesh says that it is not built yet. A token is as good as the key,
so it comes in by standard input or a file, and goes out on standard output alone.
"""

from __future__ import annotations

import os
import stat
import sys

import click

from meshray import meshkey
from meshray.config import DEFAULT
from meshray.errors import MeshrayError
from meshray.local import find_peers
from meshray.meshkey import MeshKey
from meshray.seeds import Seed, last_peers, parse_seeds, remember_peers
from meshray.tokens import TOKEN_MAX_CHARS, Token, read_token, write_token

_READ_MAX_BYTES = 8 * TOKEN_MAX_CHARS  # a token, and what a mail or a terminal may have put around it

NO_COMMAND_LINE = (
    "a token is not given on the command line, where every user of this host can read it and the shell keeps it: give "
    "it on standard input (`meshray token | ssh OTHER meshray join`), or by --file FILE. One that was given so is no "
    "longer secret: change the key (`meshray key stage`)."
)


class NotBuiltError(MeshrayError):
    """What was asked for needs a running mesh, and is not there yet; the text says what can be done instead."""


class TokenSourceError(MeshrayError):
    """The place where the token should be cannot be read; the text names it."""


# -- the words ---------------------------------------------------------------------------------------------------------


def token(seeds: str, following: bool) -> None:
    """Print a token of the current key, or of the `following` one. Raises `MeshKeyError`, `SeedError`."""
    keys = meshkey.load()
    key = keys.next if following else keys.current
    if key is None:
        raise meshkey.MeshKeyError("no next key is staged on this host: `meshray key stage` does that")
    chosen = parse_seeds(seeds) if seeds else _known_seeds(keys.mesh)
    if not chosen:
        _warn("no address of this host is known, so the token has no seeds; give some by --seeds HOST:PORT,...")
    _warn(
        f"whoever has this token runs code on every member of mesh {keys.mesh.hex()}. Hand it on by standard input or "
        "a file (`meshray token | ssh OTHER meshray join`), never in a chat or on a command line."
    )
    click.echo(write_token(Token(mesh=keys.mesh, key=key, seeds=chosen)))


def join(file: str | None, replace: bool) -> None:
    """Store the token that is given. Raises `TokenError`, `MeshKeyError`, `TokenSourceError`."""
    given = read_token(_read(file))
    changed = meshkey.join(given.mesh, given.key, replace=replace)
    remember_peers(given.mesh, given.seeds)
    what = "belongs now" if changed else "belonged already"
    click.echo(f"This host {what} to mesh {given.mesh.hex()} (key {given.key.id.hex()}).")
    if given.seeds:
        click.echo(f"  members to begin with: {', '.join(map(str, given.seeds))}")


def stage(here: bool, file: str | None) -> None:
    """Stage a new key on this host, or the one in a token. Raises as `join`, and `NotBuiltError`."""
    if file is not None:
        given = read_token(_read(file))
        key, changed = given.key, meshkey.stage(given.key, given.mesh)
    elif here:
        key, changed = MeshKey.generate(), True
        meshkey.stage(key)
    else:
        raise NotBuiltError(
            "giving the next key to the running members over the mesh is not built yet. By hand: `meshray key stage "
            "--here` makes one on this host, `meshray token --next` prints it, and `meshray key stage --file FILE` "
            "(or `-` for standard input) stages it on each other member"
        )
    click.echo(f"Key {key.id.hex()} {'is staged now' if changed else 'was here already'}.")
    click.echo("  when every member has it: meshray key switch --here, on each")


def switch(here: bool) -> None:
    """Make the next key the current one. Raises `MeshKeyError`, `NotBuiltError`."""
    if not here:
        raise NotBuiltError(
            "switching the running members is not built yet. By hand: `meshray key switch --here` on each member, once "
            "every member has the next key"
        )
    keys = meshkey.switch()
    click.echo(f"Key {keys.current.id.hex()} is the current one now; the old one is gone from this host.")


def show() -> None:
    """Print the ids of what this host has; the keys themselves are not shown. Raises `MeshKeyError`."""
    keys = meshkey.load()
    click.echo(f"Mesh {keys.mesh.hex()}")
    click.echo(f"  key       {keys.current.id.hex()}")
    click.echo(f"  next key  {keys.next.id.hex() if keys.next is not None else 'none'}")


# -- seeds and secrets -------------------------------------------------------------------------------------------------


def _known_seeds(mesh: bytes) -> list[Seed]:
    """Our own addresses, then the members that were seen last."""
    from meshray.transport.interfaces import choose, look, reachable  # psutil takes 20 ms of every other command

    ports = [record.mesh_port for record in find_peers() if record.mesh_port] or [DEFAULT.mesh_port]
    here = [Seed(address, port) for port in ports for address in reachable(choose(look()))]
    return list(dict.fromkeys([*here, *last_peers(mesh)]))[: DEFAULT.seeds_max]


def _read(file: str | None) -> str:
    """What was given in a file, or on standard input (asked for without showing it, where that is a terminal)."""
    if file is None or file == "-":
        if sys.stdin.isatty():
            return str(click.prompt("Token (it is not shown)", hide_input=True, err=True))
        data = sys.stdin.buffer.read(_READ_MAX_BYTES)
    else:
        try:
            with open(file, "rb") as source:
                mode = stat.S_IMODE(os.fstat(source.fileno()).st_mode)
                data = source.read(_READ_MAX_BYTES)
        except OSError as error:
            raise TokenSourceError(f"the file {file} cannot be read: {error.strerror}") from error
        if mode & 0o077:
            _warn(f"other users may read {file} (mode {mode:04o}), and with it the key: remove it now")
    return data.decode("utf-8", "replace")


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)
