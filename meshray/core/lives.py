"""The life of one actor, as a table; how often it may start again, and after which pause.

::

    PLACING --slot--> STARTING --ready--> ALIVE
       ^                 |  |               | |
       |  crash, restarts left: BACKOFF <---+ |      a pause of 0 goes to PLACING at once
       +--------------------/                 |
    ENDING <--- told to end, or being killed -+      from STARTING too
    DEAD   <--- from anywhere, once there is no process (any more)
"""

from __future__ import annotations

from enum import Enum

from meshray.config import Config
from meshray.wire.messages import CreateActor, Failure


class Life(Enum):
    PLACING = "placing"  # a slot was asked for
    STARTING = "starting"  # `__init__` runs
    ALIVE = "alive"
    BACKOFF = "waiting to restart"
    ENDING = "ending"  # its end is certain, its process not gone yet
    DEAD = "dead"


NEXT: dict[Life, frozenset[Life]] = {
    Life.PLACING: frozenset({Life.STARTING, Life.BACKOFF, Life.DEAD}),
    Life.STARTING: frozenset({Life.ALIVE, Life.PLACING, Life.BACKOFF, Life.ENDING, Life.DEAD}),
    Life.ALIVE: frozenset({Life.PLACING, Life.BACKOFF, Life.ENDING, Life.DEAD}),
    Life.BACKOFF: frozenset({Life.PLACING, Life.DEAD}),
    Life.ENDING: frozenset({Life.DEAD}),
    Life.DEAD: frozenset(),
}


class Actor:
    """What the peer knows of one actor, from CreateActor until it is dead and its last handle is gone."""

    __slots__ = (
        "creator",
        "deadline",
        "exit_s",
        "failure",
        "heir",
        "incarnation",
        "inherited",
        "killed",
        "life",
        "restarts",
        "short_lives",
        "spec",
        "started_at",
        "waits",
        "watchers",
        "worker",
    )

    def __init__(self, spec: CreateActor, creator: bytes) -> None:
        self.spec = spec
        self.creator = creator  # who sent CreateActor
        self.life = Life.PLACING
        self.incarnation = 1  # counts starts; stands for the coming one while there is no worker
        self.worker = b""  # its process, while STARTING, ALIVE, ENDING
        self.restarts = 0  # used up
        self.short_lives = 0  # incarnations in a row that died young
        self.started_at = 0.0  # when StartActor was sent last
        self.deadline: float | None = None  # BACKOFF: when it goes on; ENDING: when its process is killed
        self.exit_s = 0.0  # ENDING: how long it may take
        self.failure: Failure | None = None  # ENDING, DEAD: why
        self.killed = False  # KillActor without no_restart: the coming death is wanted, and is no end
        self.heir = b""  # the peer that will own it when this one is gone; only of a detached one
        self.inherited = False  # another peer created it, and is gone: its handles are counted by nobody
        self.waits = ""  # PLACING: why it has no place, for those who call it; its own people are gone
        self.watchers: set[bytes] = set()  # processes told of each change

    def enter(self, life: Life) -> None:
        assert life in NEXT[self.life], f"cannot become {life.value}: {self!r}"
        self.life = life
        self.deadline = None
        self.waits = ""

    def may_restart(self) -> bool:
        """Whether a death is not the end."""
        return self.spec.max_restarts < 0 or self.restarts < self.spec.max_restarts

    def pause_s(self, config: Config, now: float) -> float:
        """Count the death of an incarnation, and say how long to wait before the next. Lives that last longer than the
        longest pause start the count anew."""
        if now - self.started_at > config.actor_backoff_max_s:
            self.short_lives = 0
        self.short_lives += 1
        if self.short_lives == 1:
            return 0.0
        return min(config.actor_backoff_s * 2.0 ** min(self.short_lives - 2, 30), config.actor_backoff_max_s)

    def __repr__(self) -> str:
        name = f" {self.spec.name!r}" if self.spec.name else ""
        return (
            f"<Actor {self.spec.actor_id.hex()}{name} of {self.spec.blob.name} {self.life.value} incarnation="
            f"{self.incarnation} restarts={self.restarts}/{self.spec.max_restarts} worker={self.worker.hex()[-6:]}>"
        )
