"""Join tokens: the mesh key and a few seeds in one printable line, for the next machine.

::

    meshray1:<base64url, no padding>
        key        32 bytes
        mesh id     8
        seeds       2 + n: how many bytes, and the seeds as text, separated by commas
        checksum    6: blake2b of what is before it, so that a mistyped or cut one is told from a foreign one

The number behind `meshray` is the version of the format. Reading is strict: what decodes is exactly what was written.

**A token is the key.** Whoever has it runs code on every member. So it travels by standard input or a file, never on a
command line, where every user of the host could read it; and no error text of this file shows any of it.
"""

from __future__ import annotations

import base64
import binascii
import re
from hashlib import blake2b

import msgspec

from meshray.config import DEFAULT
from meshray.errors import MeshrayError
from meshray.meshkey import ID_BYTES, KEY_BYTES, MeshKey
from meshray.seeds import Seed, SeedError, parse_seeds

VERSION = 1
TOKEN_MAX_CHARS = 1024

_PREFIX = re.compile(r"meshray(\d{1,4}):")
_CHECKSUM_BYTES = 6
_SEEDS_MAX_BYTES = 600  # so that the whole line stays below TOKEN_MAX_CHARS, and below what a terminal takes at once


class TokenError(MeshrayError):
    """What was given is no join token, or cannot be written as one; the text says why, without showing it."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What the next machine needs."""

    mesh: bytes
    key: MeshKey
    seeds: list[Seed] = []


def write_token(token: Token) -> str:
    """The line, without a newline. Seeds that do not fit are left out, the last first: a few are enough."""
    seeds = list(token.seeds[: DEFAULT.seeds_max])
    while len(text := ",".join(map(str, seeds)).encode("ascii")) > _SEEDS_MAX_BYTES:
        seeds.pop()
    body = token.key.secret + token.mesh + len(text).to_bytes(2, "big") + text
    return f"meshray{VERSION}:{base64.urlsafe_b64encode(body + _checksum(body)).decode('ascii').rstrip('=')}"


def read_token(text: str) -> Token:
    """The token in a text; blanks and line breaks are left out, since terminals and mails wrap long lines.

    Raises `TokenError`.
    """
    line = "".join(text.split())
    if not line:
        raise TokenError("nothing was given where a join token is expected (`meshray token` on a member prints one)")
    prefix = _PREFIX.match(line)
    if prefix is None:
        raise TokenError("this is no join token: one begins with `meshray1:` (`meshray token` on a member prints one)")
    if int(prefix[1]) != VERSION:
        raise TokenError(
            f"this is a join token of format {prefix[1]}, and this meshray reads format {VERSION}: "
            "use the same version of meshray on both machines"
        )
    if len(line) > TOKEN_MAX_CHARS:
        raise TokenError(f"this join token is damaged: it is longer than {TOKEN_MAX_CHARS} characters (two of them?)")
    return _read_body(_decoded(line[prefix.end() :]))


def _decoded(text: str) -> bytes:
    damaged = "this join token is damaged: it was cut, mistyped, or joined with something else; copy it again"
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise TokenError(damaged) from None
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    canonical = base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")
    if canonical != text or checksum != _checksum(body) or len(body) < KEY_BYTES + ID_BYTES + 2:
        raise TokenError(damaged)
    return body


def _read_body(body: bytes) -> Token:
    """The content was written by somebody's `write_token`; what is wrong in it is a fault of theirs, or a forgery."""
    secret, rest = body[:KEY_BYTES], body[KEY_BYTES:]
    mesh, rest = rest[:ID_BYTES], rest[ID_BYTES:]
    length, seeds = int.from_bytes(rest[:2], "big"), rest[2:]
    if length != len(seeds):
        raise TokenError("this join token is malformed: its seeds have another length than it says")
    try:
        return Token(mesh=mesh, key=MeshKey(secret), seeds=parse_seeds(seeds.decode("ascii")))
    except (ValueError, SeedError) as error:
        raise TokenError(f"this join token is malformed: {_without_content(error)}") from None


def _without_content(error: Exception) -> str:
    return str(error) if isinstance(error, SeedError) else "its key or its seeds are none"


def _checksum(body: bytes) -> bytes:
    return blake2b(body, digest_size=_CHECKSUM_BYTES, person=b"meshray token").digest()
