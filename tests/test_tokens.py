from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshray import tokens
from meshray.config import DEFAULT
from meshray.meshkey import MeshKey
from meshray.seeds import Seed
from meshray.tokens import Token, TokenError, read_token, write_token

KEY = MeshKey(bytes(range(32)))
TOKEN = Token(mesh=KEY.founded_mesh(), key=KEY, seeds=[Seed("10.0.0.1", 7637), Seed("fd00::1", 1)])


def test_it_is_one_printable_line_and_comes_back_the_same() -> None:
    line = write_token(TOKEN)
    assert line.startswith("meshray1:")
    assert line.isascii()
    assert line.isprintable()
    assert " " not in line
    assert read_token(line) == TOKEN
    assert read_token(f"\n  {line[:30]}\n {line[30:]}\r\n") == TOKEN
    assert KEY.secret.hex() not in repr(TOKEN)


def test_without_seeds() -> None:
    alone = Token(mesh=TOKEN.mesh, key=KEY)
    assert read_token(write_token(alone)) == alone


def test_too_many_or_too_long_seeds_are_left_out() -> None:
    many = [Seed(f"{'x' * 63}.{'y' * 63}.host{number}.example", 7637) for number in range(100)]
    line = write_token(Token(mesh=TOKEN.mesh, key=KEY, seeds=many))
    assert len(line) <= tokens.TOKEN_MAX_CHARS
    kept = read_token(line).seeds
    assert kept
    assert kept == many[: len(kept)]
    short = [Seed(f"h{number}", 1) for number in range(100)]
    assert read_token(write_token(Token(mesh=TOKEN.mesh, key=KEY, seeds=short))).seeds == short[: DEFAULT.seeds_max]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "nothing was given"),
        (" \n", "nothing was given"),
        ("hello", "no join token"),
        ("meshray:abc", "no join token"),
        ("meshray2:abc", "format 2.*format 1"),
        ("meshray1:", "damaged"),
        ("meshray1:abc", "damaged"),
        ("meshray1:" + "A" * 80, "damaged"),
        ("meshray1:" + "é" * 80, "damaged"),
        ("meshray1:" + "A" * 5000, "longer than"),
    ],
)
def test_what_is_no_token(text: str, told: str) -> None:
    with pytest.raises(TokenError, match=told):
        read_token(text)


@given(place=st.integers(0, len(write_token(TOKEN)) - 1), character=st.characters(codec="utf-8"))
def test_every_changed_character_is_noticed_and_no_error_shows_the_token(place: int, character: str) -> None:
    line = write_token(TOKEN)
    changed = line[:place] + character + line[place + 1 :]
    if "".join(changed.split()) == line:
        assert read_token(changed) == TOKEN
    else:
        with pytest.raises(TokenError) as raised:
            read_token(changed)
        assert line[9:30] not in str(raised.value)


@given(cut=st.integers(0, len(write_token(TOKEN)) - 1))
def test_every_cut_is_noticed(cut: int) -> None:
    with pytest.raises(TokenError):
        read_token(write_token(TOKEN)[:cut])


@given(body=st.binary(max_size=200))
def test_a_forged_body_gives_a_token_or_an_error(body: bytes) -> None:
    """With a right checksum: whatever somebody may have written by hand."""
    data = body + tokens._checksum(body)
    text = "meshray1:" + base64.urlsafe_b64encode(data).decode().rstrip("=")
    try:
        assert write_token(read_token(text)).startswith("meshray1:")
    except TokenError:
        return


def test_a_second_token_behind_the_first_is_noticed() -> None:
    with pytest.raises(TokenError, match="damaged"):
        read_token(f"{write_token(TOKEN)}\n{write_token(TOKEN)}\n")
