"""Which hosts know of which jobs? So that all of them hear of the end.

And what of a program goes along with its job (`Code`)? Its driver is asked when the first other host hears of the job;
all who hear of it before the answer hear of it once more.

A job that is over may have detached actors, which can be started on any host, and have their heirs. So it is kept as it
was told last, while somebody here needs it, for those who ask for it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshray.ids import NODE_BYTES
from meshray.wire.messages import Code, JobInfo, JobThere


class JobsAbroad:
    """Jobs of our drivers that others know, and jobs of others that we know. `node` is our home."""

    def __init__(self, node: bytes) -> None:
        self._node = node
        self._told: dict[bytes, set[bytes]] = {}  # our drivers' jobs -> homes that know them
        self._foreign: dict[bytes, JobThere] = {}  # jobs of others that live, as their drivers' hosts have them
        self._awaited: dict[bytes, set[bytes]] = {}  # our jobs that are over -> homes where some of it may still run
        self._ending: set[bytes] = set()  # jobs of others that are over, and of which something still runs here
        self._codes: dict[bytes, Code | None] = {}  # our drivers' jobs -> their code; None: asked for
        self._lasting: dict[bytes, JobThere] = {}  # jobs that are over, and were needed here when that was looked at

    def on_told(self, job: bytes, home: bytes) -> None:
        """That host knows this job."""
        if job[:NODE_BYTES] == self._node:
            self._told.setdefault(job, set()).add(home)

    def take_told(self, job: bytes) -> list[bytes]:
        """Our job is over: who knows it. Each is awaited until it has said that it has done with it."""
        self._codes.pop(job, None)
        told = self._told.pop(job, None)
        if told:
            self._awaited[job] = set(told)
        return sorted(told or ())

    def on_done(self, job: bytes, home: bytes) -> None:
        """Nothing of our job runs at that host any more. Who is not awaited is ignored."""
        awaited = self._awaited.get(job)
        if awaited is not None:
            awaited.discard(home)
            if not awaited:
                del self._awaited[job]

    def awaits(self, job: bytes) -> bool:
        """Whether something of a job of ours that is over may still run elsewhere."""
        return job in self._awaited

    def forget_awaited(self, job: bytes) -> None:
        """Nobody waits for that any more."""
        self._awaited.pop(job, None)

    # -- code --------------------------------------------------------------------------------------------------------

    def with_code(self, info: JobInfo) -> JobInfo:
        """A job of ours, as others are to hear of it."""
        return msgspec.structs.replace(info, code=self._codes.get(info.job))

    def must_ask(self, job: bytes) -> bool:
        """A host is told of this job. Whether its driver is to be asked for its code: true once, for jobs of ours."""
        if job[:NODE_BYTES] != self._node or job in self._codes:
            return False
        self._codes[job] = None
        return True

    def on_code(self, job: bytes, code: Code) -> list[bytes]:
        """The driver's answer: who is to be told. Nobody when it was not asked, or has answered."""
        if self._codes.get(job, code) is not None:
            return []
        self._codes[job] = code
        return sorted(self._told.get(job, ()))

    # -- jobs of others ----------------------------------------------------------------------------------------------

    def on_there(self, there: JobThere) -> bool:
        """Somebody says that there is such a job. Whether it is news, and another host's."""
        job = there.info.job
        known = self._foreign.get(job)
        if job[:NODE_BYTES] == self._node or (known is not None and (known.info.code or not there.info.code)):
            return False
        self._foreign[job] = there
        return True

    def there(self, job: bytes) -> JobThere | None:
        """What to say of a foreign job; None for other jobs."""
        return self._foreign.get(job)

    def on_over(self, job: bytes) -> bool:
        """A foreign job is over. Whether it was known: then it is ending, until `on_ended`."""
        if self._foreign.pop(job, None) is None:
            return False
        self._ending.add(job)
        return True

    def on_ended(self, job: bytes) -> None:
        """Nothing of a foreign job that is over runs here any more."""
        self._ending.discard(job)

    def on_lasts(self, there: JobThere, lasts: Callable[[bytes], bool]) -> None:
        """A job, ours or another's, is over. It is kept if its detached actors need it here: `lasts(job)`; others that
        are not needed any more go. Its code will not become known if it is not."""
        self._lasting = {job: told for job, told in self._lasting.items() if lasts(job)}
        if lasts(there.info.job):
            info = msgspec.structs.replace(there.info, code=there.info.code or Code())
            self._lasting[info.job] = JobThere(info, there.python, over=True)

    def lasting(self, job: bytes) -> JobThere | None:
        """What to say of a job that is over; None when it was not kept."""
        return self._lasting.get(job)

    def is_ending(self, job: bytes) -> bool:
        """Whether it is over, and something of it still runs here."""
        return job in self._ending

    def of_host(self, home: bytes) -> list[bytes]:
        """Living jobs of that host's drivers."""
        return [job for job in self._foreign if job[:NODE_BYTES] == home]

    def foreign(self) -> list[bytes]:
        """All of others that live."""
        return sorted(self._foreign)

    def forget_host(self, home: bytes) -> None:
        """That host knows nothing any more."""
        for table in (self._told, self._awaited):
            for job in list(table):
                table[job].discard(home)
                if not table[job]:
                    del table[job]

    def __contains__(self, job: bytes) -> bool:
        return job in self._foreign
