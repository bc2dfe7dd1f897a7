"""A peer process from its first line to its last.

The order matters: the zygote is forked when everything that workers share is imported, and before this process opens a
socket or starts a thread (a fork of a process with threads copies locked locks). The folder is claimed before
that, so that the log is there for both; its lock is not inherited by the zygote.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import msgspec

from meshray import __version__, crashes
from meshray.errors import MeshrayError
from meshray.launch import READY_FD, RECORD_SEPARATOR, MeshSettings, PeerSettings, Ready, Refused
from meshray.local import Claim, claim_peer, remove_folder_of
from meshray.peer.folders import FolderLostError
from meshray.peer.service import serve
from meshray.wire.messages import PROTOCOL
from meshray.worker.zygote import fork_zygote

DESCRIPTORS_MAX = 65_536

OWN_LOG = Path("/proc/self/fd/2")
"""The log of this process, once it has one: also where nobody finds it by its path any more."""


class OrphanError(MeshrayError):
    """A private peer without its driver."""


class Starter:
    """Whoever started this process, and waits for one answer: by the pipe, or at the terminal."""

    def __init__(self, foreground: bool) -> None:
        self._foreground = foreground
        self.waits = True  # until it was answered

    def ready(self, ready: Ready) -> None:
        if self._foreground:
            for warning in ready.warnings:
                _say(f"warning: {warning}")
            _say(f"peer {ready.record.name!r} serves (pid {ready.record.pid}); Ctrl-C or `meshray stop` ends it")
        self._answer(ready)

    def refuse(self, error: str) -> None:
        if self._foreground:
            _say(f"Error: {error}")
        self._answer(Refused(error))

    def _answer(self, answer: Ready | Refused) -> None:
        self.waits = False
        if self._foreground:
            return
        try:
            os.write(READY_FD, RECORD_SEPARATOR.encode() + msgspec.json.encode(answer) + b"\n")
        except BrokenPipeError:  # the starter is gone: a private peer ends by its pidfd, a standing one serves
            _say("the process that started this peer is gone")
        os.close(READY_FD)


def main(encoded_settings: bytes) -> int:
    """Be a peer until it is told to stop; the exit code."""
    settings = msgspec.msgpack.decode(encoded_settings, type=PeerSettings)
    starter = Starter(settings.foreground)
    try:
        _run(settings, starter)
    except MeshrayError as error:
        return _failed(starter, str(error))
    except Exception:
        return _failed(starter, traceback.format_exc())
    return 0


def end(code: int) -> NoReturn:
    """End this process, in which all was let go of.

    What an interpreter does at its end, freeing what the kernel frees anyway, takes more processor time than all that
    was done in order before it: seconds on a busy machine, for which the driver waits.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # nobody reads any more, or it is closed
            stream.flush()
    os._exit(code)


def _run(settings: PeerSettings, starter: Starter) -> None:
    _settle(settings)
    name = settings.name or socket.gethostname()
    claim, record = claim_peer(settings.node, name, private=settings.private, version=__version__, protocol=PROTOCOL)
    stores: list[str] = []  # the folder of the segments, once it is there
    try:
        if not settings.foreground:
            _open_log(claim)
        zygote = fork_zygote()
        _raise_descriptor_limit()
        _take_signals(settings.foreground)

        def on_ready(store: str, warnings: list[str], listens: bool) -> None:
            """The service serves now; `store` is the folder of its segments."""
            stores.append(store)
            mesh = settings.mesh if settings.mesh is not None else MeshSettings(port=0)
            complete = msgspec.structs.replace(
                record, ready=True, store=store, mesh_port=mesh.port, mesh_bind=mesh.bind
            )
            claim.publish(complete)
            starter.ready(Ready(complete, warnings, listens))

        if settings.private and os.getppid() != settings.driver_pid:  # and its pid may be somebody else's by now
            raise OrphanError("the driver has ended before its peer served")
        serve(settings, claim, name, zygote, on_ready)
    except Exception as error:
        if not (starter.waits or settings.private or settings.foreground):
            _keep_log(error, name)
        raise
    finally:
        for store in stores:  # left only when a second signal has cut the end of the service short
            remove_folder_of(record.node, store)
        claim.release()


def _keep_log(error: Exception, name: str) -> None:
    """It served, and has crashed, or had to end: its log would go with its folder, or has gone already."""
    lost = isinstance(error, FolderLostError)
    _say(f"this peer has ended: {error}" if lost else traceback.format_exc())
    try:
        crashes.keep(OWN_LOG, name)
    except (OSError, MeshrayError) as why_not:
        _say(f"the log cannot be kept: {why_not}")  # whoever still has it open may read that


def _take_signals(foreground: bool) -> None:
    """The service takes SIGTERM while its loop runs. Before that and after, it ends the process in order, through the
    `finally` clauses. Ctrl-C in the foreground is the same."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    if foreground:
        signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))


def _settle(settings: PeerSettings) -> None:
    """Let go of what was only inherited: descriptors, and the working directory (a worker goes to its driver's)."""
    if not settings.foreground:
        os.set_inheritable(READY_FD, False)
        os.closerange(READY_FD + 1, os.sysconf("SC_OPEN_MAX"))
    for variable in ("MESHRAY_RUNTIME_DIR", "MESHRAY_HOME"):
        if os.environ.get(variable):
            os.environ[variable] = os.path.abspath(os.environ[variable])
    os.chdir("/")


def _raise_descriptor_limit() -> None:
    """A worker costs a peer about four descriptors, and the usual limit is 1,024. The zygote, forked before, keeps the
    limit that programs expect."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _failed(starter: Starter, error: str) -> int:
    if starter.waits:
        starter.refuse(error)
    else:
        _say(error)
    return 1


def _say(text: str) -> None:
    """To the terminal in the foreground, else to the log."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _open_log(claim: Claim) -> None:
    """What this process and its zygote print goes to the log in its folder."""
    log = os.open(claim.folder / "peer.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
