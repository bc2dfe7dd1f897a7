"""What a worker does while what it runs waits in `get` or `wait`: it lends its CPU, and gives back the tasks behind.

One of these may be what is waited for.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from meshray.wire import messages as m

if TYPE_CHECKING:
    from meshray.worker.executor import Executor


class Blocking:
    """The `Blocker` of a worker (`runtime.waiting`). While threads of the user's wait the main one runs on: nothing is
    lent for them."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._main_ident = threading.main_thread().ident
        self._blocks = 0  # so many waits have begun: each has a number

    def begin_block(self) -> object:
        executor = self._executor
        if threading.get_ident() != self._main_ident or not executor.busy:
            return None
        engine = executor.engine
        token = self._blocks = self._blocks + 1
        raised = engine.pump.enter()
        try:
            if executor.actor is None:
                executor.give_back()
            engine.send(engine.peer, m.Blocked(token))
        finally:
            try:
                engine.pump.leave(raised)
            except BaseException:  # cancelled just here: nobody will wait
                self.end_block(token)
                raise
        return token

    def end_block(self, token: object) -> None:
        if token is None:
            return
        engine = self._executor.engine
        raised = engine.pump.enter()
        try:
            engine.send(engine.peer, m.Unblocked(token))  # type: ignore[arg-type]
            engine.flush()
        finally:
            engine.pump.leave(raised)
