"""Who of other hosts has dealings with whom of this one, and who must account for their deaths?

A process of another host is there from its introduction (ProcessThere) to its ProcessDied, or to the end of its host.
Who of this host has *met* it, either way, hears of that. Peers of other hosts are met like processes, and need no
introduction.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshray.ids import NODE_BYTES


class Foreigners:
    """Processes of other hosts, and processes of this one as far as others have to account for them."""

    def __init__(self) -> None:
        self._jobs: dict[bytes, bytes] = {}  # those that are there -> the job that each serves, or b""
        self._met: dict[bytes, set[bytes]] = {}  # foreign process or peer -> living processes of this host
        self._silent: dict[bytes, set[bytes]] = {}  # the foreign dead -> witnesses here that have not answered
        self._unsettled: dict[bytes, set[bytes]] = {}  # the foreign dead -> all witnesses here, until DeathSettled
        self._told: dict[bytes, set[bytes]] = {}  # our dead -> peers that were told, until it is settled

    def add(self, process: bytes, job: bytes) -> None:
        """It is about to speak. A repeat changes nothing."""
        if process not in self._unsettled:
            self._jobs.setdefault(process, job)

    def job_of(self, process: bytes) -> bytes:
        return self._jobs.get(process, b"")

    def of_job(self, job: bytes) -> list[bytes]:
        """Those that serve it."""
        return [process for process, its in self._jobs.items() if its == job]

    def met(self, foreigner: bytes, process: bytes) -> None:
        """A process of this host has spoken with it, or it with that one."""
        found = self._met.get(foreigner)
        if found is None:
            found = self._met[foreigner] = set()
        found.add(process)

    def who_met(self, foreigner: bytes) -> frozenset[bytes]:
        return frozenset(self._met.get(foreigner, ()))

    def who_met_any(self, home: bytes) -> set[bytes]:
        """Who has met anybody of that host."""
        found: set[bytes] = set()
        for foreigner, processes in self._met.items():
            if foreigner[:NODE_BYTES] == home:
                found |= processes
        return found

    # -- deaths of foreigners ----------------------------------------------------------------------------------------

    def settles(self, process: bytes) -> bool:
        """Whether its death is known here, and not settled."""
        return process in self._unsettled

    def on_died(self, process: bytes, witnesses: set[bytes]) -> bool:
        """It is gone; these here are asked. Whether it had been there."""
        self._met.pop(process, None)
        if witnesses:
            self._silent[process] = set(witnesses)
        self._unsettled[process] = set(witnesses)
        return self._jobs.pop(process, None) is not None

    def also_tell(self, witness: bytes, process: bytes) -> bool:
        """This one speaks to the dead one. True: it has never met it, so it is to be told; it is to hear when that
        death is settled, and need not answer. False: it was told, and speaks from before that."""
        told = self._unsettled[process]
        new = witness not in told
        told.add(witness)
        return new

    def on_answer(self, witness: bytes, process: bytes) -> bool:
        """The witness has accounted for the dead one. True: it was the last."""
        silent = self._silent.get(process)
        if silent is None or witness not in silent:
            return False
        silent.discard(witness)
        if not silent:
            del self._silent[process]
        return not silent

    def on_settled(self, process: bytes) -> list[bytes]:
        """All hosts have accounted for it: who is to be told here."""
        return sorted(self._unsettled.pop(process, ()))

    def settled_witness(self, witness: bytes) -> list[bytes]:
        """The death of a witness is settled, so its silence counts as an answer: the foreign dead that waited for it
        alone."""
        return [process for process in list(self._silent) if self.on_answer(witness, process)]

    def on_host_gone(self, home: bytes) -> None:
        """Nobody of that host is there any more, and nobody there waits for an answer."""
        for table in (self._jobs, self._met, self._silent, self._unsettled):
            for process in [process for process in table if process[:NODE_BYTES] == home]:
                del table[process]
        for peers in self._told.values():
            peers -= {peer for peer in peers if peer[:NODE_BYTES] == home}

    # -- deaths of our own -------------------------------------------------------------------------------------------

    def on_local_died(self, process: bytes, told: Iterable[bytes]) -> None:
        """It is gone; these peers were told."""
        for foreigner in [foreigner for foreigner, processes in self._met.items() if process in processes]:
            self._met[foreigner].discard(process)
            if not self._met[foreigner]:
                del self._met[foreigner]
        if peers := set(told):
            self._told[process] = peers

    def has_told(self, peer: bytes, process: bytes) -> bool:
        """Whether this peer was told of that death, and it is not settled."""
        return peer in self._told.get(process, ())

    def on_local_settled(self, process: bytes) -> list[bytes]:
        """Everybody has accounted for it: the peers that wait for that word."""
        return sorted(self._told.pop(process, ()))

    def __contains__(self, process: bytes) -> bool:
        return process in self._jobs

    def __len__(self) -> int:
        return len(self._jobs)
