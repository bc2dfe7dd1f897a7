"""A short visit at a peer of this host: attach as an observer, ask, leave.

An observer runs nothing and owns nothing; the peer forgets it when it goes.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from meshray.errors import MeshrayError
from meshray.ids import new_process
from meshray.local import PYTHON, PeerRecord, open_peer, peer_process
from meshray.transport.endpoint import Endpoint
from meshray.wire.messages import PROTOCOL, Answer, Ask, Attach, Attached, Detach

ANSWER_TIMEOUT_S = 5.0
_POLL_MAX_S = 1.0
_RETRY_S = 0.01


class UnreachableError(MeshrayError):
    """The peer is gone, does not answer, or refuses; the text says which."""


class Visit:
    """One visit; a context manager. Raises `UnreachableError` from every method."""

    def __init__(self, record: PeerRecord, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._record = record
        self._peer = peer_process(bytes.fromhex(record.node))
        self._requests = 0  # counts up: the number of the last question
        pidfd = open_peer(record)
        if pidfd is None:
            raise UnreachableError(f"the peer {record.name!r} (pid {record.pid}) has ended")
        self._pidfd = pidfd  # readable once the peer has ended
        try:
            self._endpoint = Endpoint(Path(record.folder), new_process(bytes.fromhex(record.node)))
        except BaseException:
            os.close(pidfd)
            raise
        try:
            self._attach(timeout_s)
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, argument: str = "", timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """The peer's answer, as plain data."""
        self._requests += 1
        request = self._requests
        self._endpoint.send(self._peer, Ask(request, what, argument))
        answer = self._wait(lambda message: isinstance(message, Answer) and message.request == request, timeout_s)
        assert isinstance(answer, Answer)
        if answer.failure is not None:
            raise UnreachableError(f"the peer {self._record.name!r} answers: {answer.failure.message}")
        return msgspec.msgpack.decode(answer.data) if answer.data else None

    def _attach(self, timeout_s: float) -> None:
        self._endpoint.send(self._peer, Attach(PROTOCOL, os.getpid(), PYTHON, observer=True))
        attached = self._wait(lambda message: isinstance(message, Attached), timeout_s)
        assert isinstance(attached, Attached)
        if attached.refused:
            raise UnreachableError(f"the peer {self._record.name!r} refuses: {attached.refused}")

    def _wait(self, wanted: Callable[[object], bool], timeout_s: float) -> object:
        """The next message that is `wanted`; others are dropped."""
        give_up_at = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._endpoint.fd, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        ended = False
        while True:
            for _, message in self._endpoint.receive():
                if wanted(message):
                    return message
            who = f"the peer {self._record.name!r} (pid {self._record.pid})"
            if ended:  # and what it had sent before was looked at
                raise UnreachableError(f"{who} has ended")
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                raise UnreachableError(f"{who} does not answer within {timeout_s:g} s")
            if self._endpoint.must_retry:  # many connect at once: what we have asked is still here
                self._endpoint.flush()
                left_s = min(left_s, _RETRY_S)
            ended = any(fd == self._pidfd for fd, _ in poll.poll(min(left_s, _POLL_MAX_S) * 1000))

    def close(self) -> None:
        """Leave, with a word: the peer keeps a link and watches us until then, or until our process ends."""
        self._endpoint.send(self._peer, Detach(0))
        self._endpoint.close(linger_ms=0)
        os.close(self._pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
