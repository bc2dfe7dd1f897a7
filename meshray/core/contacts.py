"""Which addresses do I try? Through them a peer joins, and the halves of a partition find each other again.

Nobody probes the dead, so two halves that hold each other for dead would never meet. Therefore each peer tries an
address now and then, in turn: of the members that died last (those that left excepted), and the seeds that it was
given, unless a living member has it. What is sent there is a Join, which does the right thing whoever listens: another
mesh with the same key becomes one with this one, who holds us for dead says so, a peer that came back as another node
takes us in.

A peer that knows nobody tries its seeds quickly at first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshray.config import Config
from meshray.core.members import Members, State

if TYPE_CHECKING:
    from random import Random


class Contacts:
    """Addresses to try."""

    def __init__(self, config: Config, members: Members, random: Random, now: float) -> None:
        self._config = config
        self._members = members
        self._random = random
        self._seeds: dict[str, None] = {}  # in the order given
        self._queue: list[str] = []  # the rest of this turn, the next one last
        self._pause_s = config.join_retry_s  # while nobody is known; doubles
        self.next_at = now + config.contact_interval_s * (0.5 + random.random())

    def add_seeds(self, addresses: tuple[str, ...], now: float) -> None:
        """Try these too, at once. Of too many the newest count: discovery finds a peer anew where it is now."""
        for address in addresses:
            self._seeds.pop(address, None)
            self._seeds[address] = None
            if len(self._seeds) > self._config.contacts_max:
                del self._seeds[next(iter(self._seeds))]
        self._queue = []
        self._pause_s = self._config.join_retry_s
        self.next_at = now

    def drop(self, address: str) -> None:
        """It is our own."""
        self._seeds.pop(address, None)

    def next(self, now: float) -> str | None:
        """The address to try now, and fix the time of the next turn; None when there is none."""
        alone = self._members.count == 1
        if not self._queue:
            self._queue = self._candidates()
            self._random.shuffle(self._queue)
        if alone and self._queue:
            self.next_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, self._config.contact_interval_s)
        else:
            self._pause_s = self._config.join_retry_s
            self.next_at = now + self._config.contact_interval_s * (0.75 + self._random.random() / 2)
        return self._queue.pop() if self._queue else None

    def _candidates(self) -> list[str]:
        taken = set(self._members.me.addresses)
        for member in self._members.living():
            taken.update(member.addresses)
        died = [m for m in self._members.dead() if m.state == State.DEAD and m.addresses]
        found = dict.fromkeys(m.addresses[0] for m in died[-self._config.contacts_max :])
        found.update(self._seeds)
        return [address for address in found if address not in taken]

    def last_peers(self) -> tuple[str, ...]:
        """Through whom to join next time: members that live, then those that died last, then seeds. Those that left are
        seen no more; what was written down of them before stays until others take its place."""
        found = {m.addresses[0]: None for m in self._members.living() if m.addresses}
        found.update(
            {m.addresses[0]: None for m in reversed(self._members.dead()) if m.state == State.DEAD and m.addresses}
        )
        found.update(self._seeds)
        return tuple(found)[: self._config.contacts_max]
