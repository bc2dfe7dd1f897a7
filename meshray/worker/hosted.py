"""What an executor asks of the actor that it hosts, and how that one asks for its end."""

from __future__ import annotations

from typing import Protocol

from meshray.runtime.current import Current
from meshray.wire import messages as m


class ActorExitRequest(BaseException):
    """Raised by `exit_actor()` through user code; a BaseException, so that `except Exception` does not stop it."""


class Hosted(Protocol):
    """The actor of a worker. What happens to it (`on_...`) is told under the pump's lock, unless it says otherwise."""

    def run(self) -> None:
        """Construct it, then serve until it ends. In the main thread."""

    def current(self) -> Current | None:
        """What runs in this thread, or in this coroutine."""

    def on_work(self) -> None:
        """Something came into the queue, or it is time to go."""

    def on_submitted(self) -> None:
        """Its code has submitted something. From any thread, not under the lock."""

    def on_cancel(self, message: m.Cancel) -> None:
        """A call that may have begun is to be cancelled."""

    def runs(self, task_id: bytes) -> bool:
        """Whether this call has begun and not ended. From any thread."""

    def runs_for(self, caller: bytes) -> bool:
        """Whether calls of this process run, or may soon."""

    @property
    def behind(self) -> bool:
        """Whether calls wait for those that run."""
