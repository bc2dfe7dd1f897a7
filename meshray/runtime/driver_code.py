"""What workers of other hosts see of the program: its own folder, packed when the first such host hears of the job.

The peer asks for it (CodeWanted), and this answers (CodeReady), whatever happens. It reads files, so it works in a
thread of its own, and what it needs is imported there: most programs never leave their host.
"""

from __future__ import annotations

import logging
import math
import pickle
import sys
import threading
import time
from types import ModuleType
from typing import Any

from meshray.refs import ObjectRef
from meshray.runtime.client import Client
from meshray.wire import messages as m

_logger = logging.getLogger("meshray")

LASTING_TIMEOUT_S = 10.0
"""How long the end of a program with detached actors waits for its folder to be packed: twice what looking for files
may take (`code_look_s`). Where no thread can begin any more, it begins with no other file after that."""

CLOSE_TIMEOUT_S = 2.0
"""How long the end of the program waits for the thread: as long as it may take to read one file from a slow disk."""

LEFT_OUT_MAX = 4096
"""Characters that tell of what does not go along."""

HINT = (
    "What tasks on other hosts read must be in the program's own folder, within its bounds, or come as an argument "
    "(a large one by meshray.put); or it must lie there already"
)


class DriverCode:
    """The driver's answer to CodeWanted."""

    def __init__(self, client: Client, job: m.JobInfo) -> None:
        self._client = client
        self._job = job
        self._main = _main_of_now()
        self._closed = False
        self._give_up_at = math.inf  # if it is packed in the thread that ends the program
        self._lasting = False  # it is needed when the program has ended, too
        self._thread: threading.Thread | None = None  # that packs; from the first question on. Set under the lock
        self._code: m.Code | None = None  # the answer, once it is known; under the pump's lock
        self._kept: list[ObjectRef[Any]] = []  # the object of it, until the job ends

    def on_wanted(self, lasting: bool) -> None:
        """The peer asks. Under the pump's lock: only begins, or answers again."""
        self._lasting = self._lasting or lasting
        if self._code is not None:
            self._client.engine.send(self._client.engine.peer, m.CodeReady(self._code))
        elif self._thread is None and not self._closed and not self._begin() and not lasting:
            self._say(m.Code())  # else `finish` answers

    def _begin(self) -> bool:
        """Pack, in a thread. False: none begins, as in an interpreter that ends (since Python 3.12), or for want of
        room for another one. Under the pump's lock."""
        thread = threading.Thread(target=self._run, name="meshray-code", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def finish(self) -> None:
        """The program is about to end. Of one that has detached actors the peer has its answer before. It may have made
        one just now, so that the question is still on its way."""
        if not (self._client.has_detached or self._lasting):
            return
        pump = self._client.engine.pump
        here = False
        raised = pump.enter()
        try:
            if self._thread is None and self._code is None and not self._begin():
                self._thread, here = threading.current_thread(), True
        finally:
            pump.leave(raised)
        if here:
            self._give_up_at = time.monotonic() + LASTING_TIMEOUT_S
            self._run()
        elif self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(LASTING_TIMEOUT_S)

    def close(self) -> None:
        """The program ends. The peer is asked nothing any more."""
        self._closed = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        interpreter: list[str] = []
        try:
            from meshray.runtime.bundle.own import of_interpreter

            interpreter = of_interpreter(self._job.sys_path)
            code, complaint = self._pack(interpreter)
        except Exception as error:  # whatever it is, somebody waits for an answer
            if self._is_over():
                return
            code = m.Code(interpreter=interpreter)
            complaint = f"The program's files do not go to other hosts: {type(error).__name__}: {error}"
        if complaint:
            _logger.warning("%s. %s.", complaint, HINT)
        self._answer(code)

    def _pack(self, interpreter: list[str]) -> tuple[m.Code, str]:
        """The answer, and what the user should know of it. Raises what the file system and the store say."""
        from meshray.runtime.bundle.archive import content_hash, pack
        from meshray.runtime.bundle.gather import Bounds, gather
        from meshray.runtime.bundle.own import own_folder

        config, job = self._client.engine.config, self._job
        own = own_folder(self._main, job.folder)
        bounds = Bounds(config.code_max_bytes, config.code_max_files, config.code_look_max_files, config.code_look_s)
        gathered = gather(own, bounds, self._is_over)
        archive = pack(gathered.found)
        gathered.found.clear()
        ref = self._client.put(pickle.PickleBuffer(archive))
        self._kept.append(ref)
        left_out = gathered.complaint()[:LEFT_OUT_MAX]
        complaint = ""
        if left_out and (gathered.cut_short or not own.shared):  # of a home that is no news: whoever misses it hears it
            complaint = f"Not all of the program's folder {own.folder} goes to other hosts: {left_out}"
        return m.Code(content_hash(archive), ref.binary(), len(archive), own.names, interpreter, left_out), complaint

    def _is_over(self) -> bool:
        if self._closed or time.monotonic() > self._give_up_at:
            return True
        return self._client.engine.pump.closed or self._client.engine.broken is not None

    def _answer(self, code: m.Code) -> None:
        engine = self._client.engine
        raised = engine.pump.enter()
        try:
            if self._is_over():
                return
            if code.object_id:
                self._kept += engine.new_handles([code.object_id])
            self._say(code)
        finally:
            engine.pump.leave(raised)
        engine.pump.kick()

    def _say(self, code: m.Code) -> None:
        """Under the pump's lock."""
        self._code = code
        self._client.engine.send(self._client.engine.peer, m.CodeReady(code))


def _main_of_now() -> ModuleType | None:
    """The program's `__main__`, with what says where it lies: Python takes `__file__` away when the script has ended,
    and what exits last may be asked only then."""
    main = sys.modules.get("__main__")
    if main is None:
        return None
    kept = ModuleType("__main__")
    kept.__file__, kept.__spec__ = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    return kept
