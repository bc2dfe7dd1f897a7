"""Who holds a port: found for our own processes, and nobody where none listens."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from meshray.transport.holders import Holder, describe, holder_of


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_this_process(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        holder = holder_of(listener.getsockname()[1])
    assert holder is not None
    assert holder.pid == os.getpid()
    assert holder.user == os.getuid()
    assert "pytest" in " ".join(holder.words)
    assert holder.environment["PATH"]


def test_a_port_that_is_bound_and_not_listened_at_is_nobodys() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert holder_of(bound.getsockname()[1]) is None


def test_without_proc(tmp_path: Path) -> None:
    assert holder_of(7637, tmp_path) is None


def test_a_process_that_nobody_may_look_at(tmp_path: Path) -> None:
    """Its descriptors are not to be read: it is not taken for the holder, nor is anybody else."""
    (tmp_path / "net").mkdir()
    line = "   0: 0100007F:1DD5 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1"
    (tmp_path / "net" / "tcp").write_text("  sl  local_address rem_address   st ...\n" + line + "\n")
    (tmp_path / "12").mkdir()
    assert holder_of(7637, tmp_path) is None
    (tmp_path / "13" / "fd").mkdir(parents=True)
    (tmp_path / "13" / "fd" / "9").symlink_to("socket:[4711]")
    (tmp_path / "13" / "cmdline").write_bytes(b"nc\0-l\0")
    (tmp_path / "13" / "environ").write_bytes(b"HOME=/root\0odd\0")
    holder = holder_of(7637, tmp_path)
    assert holder is not None
    assert (holder.pid, holder.words) == (13, ["nc", "-l"])
    assert holder.environment["HOME"] == "/root"


def test_a_port_that_a_peer_with_another_runtime_folder_has() -> None:
    def told(user: int, **environment: str) -> str:
        return describe(Holder(7, user, ["/usr/bin/python3", "-P", "/x/meshray/boot/__main__.py"], environment))

    by_session = told(os.getuid(), XDG_RUNTIME_DIR="/run/user/0", HOME="/root")
    assert "a peer of yours, pid 7" in by_session
    assert "`env -u MESHRAY_RUNTIME_DIR XDG_RUNTIME_DIR=/run/user/0 meshray stop`" in by_session
    assert "`env -u MESHRAY_RUNTIME_DIR -u XDG_RUNTIME_DIR meshray stop`" in told(os.getuid())
    named = told(os.getuid() + 1, MESHRAY_RUNTIME_DIR="/a b", XDG_RUNTIME_DIR="/run")
    assert "`MESHRAY_RUNTIME_DIR='/a b' XDG_RUNTIME_DIR=/run meshray stop`" in named
    assert f"of user {os.getuid() + 1}" in named
