"""`meshray token`, `meshray join`: becoming a member, and bringing in others.

A token is as good as the key, so it comes in by standard input or a file, and goes out on standard output alone.
"""

from __future__ import annotations

import os
import stat
import sys

import click

from meshray import meshkey
from meshray.cli.client import UnreachableError, Visit
from meshray.config import DEFAULT
from meshray.errors import MeshrayError
from meshray.local import PeerRecord, find_peers
from meshray.seeds import Seed, last_peers, parse_seeds, remember_peers
from meshray.tokens import TOKEN_MAX_CHARS, Token, read_token, write_token

_READ_MAX_BYTES = 8 * TOKEN_MAX_CHARS  # a token, and what a mail or a terminal may have put around it

OTHERS_MAX = 2
"""Of other members so many are in a token, beside this host's own addresses: it may be off when the token is used."""

NO_COMMAND_LINE = (
    "a token is not given on the command line, where every user of this host can read it and the shell keeps it: give "
    "it on standard input (`meshray token | ssh OTHER meshray join`), or by --file FILE. One that was given so is no "
    "longer secret: change the key (`meshray key stage`)."
)


class TokenSourceError(MeshrayError):
    """The place where the token should be cannot be read; the text names it."""


# -- the words ---------------------------------------------------------------------------------------------------------


def token(seeds: str, following: bool) -> None:
    """Print a token of the current key, or of the `following` one. Raises `MeshKeyError`, `SeedError`."""
    keys = meshkey.load()
    key = keys.next if following else keys.current
    if following:
        _warn("this is for `meshray key stage --file` on members. A machine that joins by it makes all others switch")
    if key is None:
        raise meshkey.MeshKeyError("no next key is staged on this host: `meshray key stage` does that")
    chosen = parse_seeds(seeds) if seeds else _known_seeds(keys.mesh)
    if not chosen:
        _warn("no address of this host is known, so the token has no seeds; give some by --seeds HOST:PORT,...")
    _warn(
        f"whoever has this token runs code on every member of mesh {keys.mesh.hex()}. Hand it on by standard input or "
        "a file (`meshray token | ssh OTHER meshray join`), never in a chat or on a command line."
    )
    _guard_output()
    click.echo(write_token(Token(mesh=keys.mesh, key=key, seeds=chosen)))


def join(file: str | None, replace: bool) -> None:
    """Store the token that is given. Raises `TokenError`, `MeshKeyError`, `TokenSourceError`."""
    given = read_given(file)
    changed = meshkey.join(given.mesh, given.key, replace=replace)
    try:
        remember_peers(given.mesh, given.seeds)
    except OSError as error:
        _warn(f"the members in the token cannot be written down ({error.strerror}): where multicast does not reach, "
              "start with --join")  # fmt: skip
    what = "belongs now" if changed else "belonged already"
    click.echo(f"This host {what} to mesh {given.mesh.hex()} (key {given.key.id.hex()}).")
    if given.seeds:
        click.echo(f"  members to begin with: {', '.join(map(str, given.seeds))}")
    if changed:
        tell_peers()


def tell_peers() -> None:
    """Have the peers of this host look at the keys again."""
    for record in find_peers():
        if record.mesh_port:
            _tell(record)


def _tell(record: PeerRecord) -> None:
    try:
        with Visit(record) as visit:
            visit.ask("keys")
    except UnreachableError as error:
        click.echo(f"warning: {error}; it uses the keys that it had until it is started again", err=True)


# -- seeds and secrets -------------------------------------------------------------------------------------------------


def _known_seeds(mesh: bytes) -> list[Seed]:
    """Where the peers of this host listen, or one would that is started here; then the members that were seen last."""
    from meshray.transport.interfaces import choose, dialled, look  # psutil takes 20 ms of every other command

    listening = [(record.mesh_port, record.mesh_bind) for record in find_peers() if record.mesh_port]
    seen = look()
    here = [
        Seed(address, port)
        for port, bind in listening or [(DEFAULT.mesh_port, [])]
        for address in dialled(choose(seen, bind))
    ]
    hosts = {seed.host for seed in here}
    others = [seed for seed in last_peers(mesh) if seed.host not in hosts]  # another port of this host is an old one
    own = list(dict.fromkeys(here))
    return [*own[: DEFAULT.token_seeds_max - min(OTHERS_MAX, len(others))], *others[:OTHERS_MAX]]


def _guard_output() -> None:
    """What goes to a file becomes its owner's alone before anything is in it: a shell makes it as the umask says."""
    try:
        fd = sys.stdout.fileno()
    except (OSError, ValueError):  # standard output is closed, or no file
        return
    found = os.fstat(fd)
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode) or not mode & 0o077:
        return
    try:
        os.fchmod(fd, 0o600)
    except OSError as error:
        _warn(f"other users may read the file that this goes to (mode {mode:04o}; {error.strerror}): remove it now")
    else:
        _warn(f"other users could read the file that this goes to (mode {mode:04o}): its mode is 0600 now")


def read_given(file: str | None) -> Token:
    """The token in a file, or on standard input (None, or `-`). Raises `TokenError`, `TokenSourceError`."""
    return read_token(_read(file))


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
