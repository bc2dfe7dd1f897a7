"""In which order does a peer end that is stopped, and how long may each step take?

::

    SERVES --begin--> WORKS --> (ENDS) --> MOVES --> SAYS --> OVER

- **WORKS**: nothing new is granted here; tasks and calls that run go on, until none does, or their time is over.
- **ENDS**: what still runs is ended, and handed back to who submitted it.
- **MOVES**: what others own, or go on to use, goes elsewhere: detached actors, guests, values.
- **SAYS**: what was said to other hosts arrives.

A step is over when it has nothing left to do, or its time is. So a peer ends within `work_s` and the sum of three
bounds, whatever others do.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from meshray.config import Config


class Phase(Enum):
    """See the head of this file."""

    SERVES = "serves"
    WORKS = "works"
    ENDS = "ends"
    MOVES = "moves"
    SAYS = "says"
    OVER = "over"


class Left(NamedTuple):
    """What is left to do."""

    works: bool  # tasks, or calls of actors
    tasks: bool  # of these only tasks: what can be ended by itself
    moves: bool
    unsaid: bool


class Drain:
    """See the head of this file."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.phase = Phase.SERVES
        self.until = 0.0  # when the present phase ends at the latest

    def begin(self, work_s: float, now: float) -> None:
        """The peer is to end; what runs has so long. Once more: only earlier than it was to be."""
        if self.phase is Phase.SERVES:
            self.phase, self.until = Phase.WORKS, now + work_s
        elif self.phase is Phase.WORKS:
            self.until = min(self.until, now + work_s)

    def next(self, left: Left, now: float) -> Phase | None:
        """The phase that begins now; None while the present one lasts."""
        late = now >= self.until
        if self.phase is Phase.WORKS:
            if not left.works or (late and not left.tasks):
                return self._enter(Phase.MOVES, self._config.leave_move_s, now)
            return self._enter(Phase.ENDS, self._config.leave_end_s, now) if late else None
        if self.phase is Phase.ENDS and (late or not left.tasks):
            return self._enter(Phase.MOVES, self._config.leave_move_s, now)
        if self.phase is Phase.MOVES and (late or not left.moves):
            return self._enter(Phase.SAYS, self._config.leave_say_s, now)
        if self.phase is Phase.SAYS and (late or not left.unsaid):
            return self._enter(Phase.OVER, 0.0, now)
        return None

    def _enter(self, phase: Phase, seconds: float, now: float) -> Phase:
        self.phase, self.until = phase, now + seconds
        return phase

    def next_deadline(self) -> float | None:
        """When time alone changes something."""
        return None if self.phase in (Phase.SERVES, Phase.OVER) else self.until
