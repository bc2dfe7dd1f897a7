"""What stands between this peer and one other: who it is, what is still to be said, and its streams.

General layout. `links.Links` decides who is linked with whom; a `Link` is one line of its table. Transitions::

    DIALLING ──a Hello or Welcome of the other──▶ UP ──▶ gone
        └────────────────no answer, refused─────────────▶ gone
    REFUSING ──told, some time later────────────────────▶ gone

A link that is gone is never taken up again. One that was given up may be followed by another one between the same two,
with a larger *epoch* (see `past`). While a link is being dialled nothing was sent on its streams, so it may take the
epoch of the other side, which is ahead; once it is up its epoch is final.

A Hello is said again until it is answered, also once the link is up: what has been heard of the other side may be a
late word of one that is gone, and only an answer shows that it was there after the question.

A link is given up when the other side acknowledges nothing for too long, or says nothing at all: one that was ever used
asks with a Hello, which is answered, when it has heard nothing for a while. So whoever waits for an answer over a link
learns that it will not come, also where the question had arrived.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import msgspec

from meshray.config import Config
from meshray.core.deadlines import earliest
from meshray.core.sessions import Session
from meshray.wire.peers import STREAMS, Ack, Data, Hello, Payload, PeerMessage, Plane, Refused, Welcome


class State(Enum):
    DIALLING = "dialling"  # a Hello was or will be sent, nothing has come yet
    UP = "up"  # the other has been heard, and is acceptable
    REFUSING = "refusing"  # it is not: kept until it knows


class Frame(NamedTuple):
    """What is to be given to a socket next."""

    target: bytes  # of the link, as the endpoint knows it
    plane: Plane
    destination: bytes  # node
    message: PeerMessage
    payload: Payload | None


class Link:
    """One peer, or an address of which the peer is not known yet."""

    def __init__(self, target: bytes, node: bytes, address: str, key_id: str, state: State, now: float, config: Config):
        self.target = target  # its name at the endpoint: the node id, or the address behind `SEED`
        self.node = node  # ANYBODY while only the address is known
        self.address = address  # where it is dialled; changes when the peer has moved
        self.key_id = key_id  # of the key for its port; "" for our own current one
        self.state = state
        self.since = now  # when it came into this state
        self.python = ""  # "3.11", once it has been heard
        self.number = 0  # of our Hellos to this address; an answer names it
        self.hello_due = state is State.DIALLING  # a Hello is to be sent now
        self.hello_again_at: float | None = None  # when the next one is, unless an answer comes; None: none is awaited
        self.patience_s = config.link_hello_again_s  # doubles with each Hello in vain
        self.met = False  # the other has said that it has a link to us: it has answered, or called us by our node
        self.welcome_due: int | None = None  # the number of the Hello that is to be answered
        self.refusal: Refused | None = None  # to be told now
        self.blocked: set[Plane] = set()  # planes whose socket took nothing more; until `on_ready`
        self.sessions: dict[int, Session] = {plane: Session(plane, config) for plane in STREAMS}
        self.epoch = 0  # see above; set by the table, and by `take_epoch`
        self.used = False  # something was sent or delivered on a stream: somebody may wait for more
        self.heard_at = now  # the last word of the other side; kept with the table
        self._asked_at = now  # the last Hello for want of one
        self.due_at: float | None = None  # when something is to be done next; kept by the table, as is the next one
        self.timer_at: float | None = None  # when the table will look at it: at `due_at`, or before
        self._config = config

    def take_epoch(self, epoch: int) -> None:
        """It is the link of this epoch from now on."""
        assert self.state is not State.UP, f"another epoch ({epoch}) for a link that stands: {self!r}"
        self.epoch = epoch
        for session in self.sessions.values():
            session.epoch = epoch

    def peek(self, hello: Hello, now: float) -> Frame | None:
        """The next frame, on a plane whose socket takes some. `hello` is what this peer says of itself."""
        if Plane.CONTROL not in self.blocked:
            message = self._to_say(hello)
            if message is not None:
                return Frame(self.target, Plane.CONTROL, self.node, message, None)
        if self.state is State.UP:
            for session in self.sessions.values():
                if session.plane not in self.blocked:
                    found = session.peek(now)
                    if found is not None:
                        return Frame(self.target, session.plane, self.node, *found)
        return None

    def _to_say(self, hello: Hello) -> PeerMessage | None:
        if self.refusal is not None:
            return self.refusal
        if self.welcome_due is not None:
            return Welcome(
                hello.protocol,
                hello.mesh,
                hello.python,
                self.welcome_due,
                hello.listens,
                hello.key_id,
                hello.home,
                hello.life,
                self.epoch,
            )
        if self.hello_due:
            return msgspec.structs.replace(hello, number=self.number, met=self.met, epoch=self.epoch)
        return None

    def advance(self, frame: Frame, now: float) -> None:
        """The socket has taken what `peek` gave."""
        message = frame.message
        if isinstance(message, Data | Ack):
            self.sessions[frame.plane].advance(message, now)
        elif isinstance(message, Refused):
            self.refusal = None
        elif isinstance(message, Welcome):
            self.welcome_due = None
        else:
            self.hello_due = False
            self.hello_again_at = now + self.patience_s
            self.patience_s = min(2 * self.patience_s, self._config.link_replay_max_s)

    def on_ready(self, plane: Plane, fresh: bool, now: float) -> None:
        """The socket of a plane takes messages again; `fresh`: over a new connection."""
        self.blocked.discard(plane)
        if not fresh:
            return
        if plane in self.sessions:
            self.sessions[plane].on_connected(now)
        if plane is Plane.CONTROL and self.state is not State.REFUSING:
            self.hello_due = True  # somebody else may listen there now: it will say so

    def on_heard(self, python: str, now: float) -> bool:
        """A Hello or a Welcome that is acceptable. True: the link is up now, and was not before."""
        self.python = python
        self.heard_at = now
        if self.state is State.UP:
            return False
        self.state, self.since = State.UP, now
        self.listen_anew(now)
        return True

    def on_answered(self) -> None:
        """It was there after it was asked: no Hello is to be said again. One that is due on a new connection is."""
        self.hello_again_at = None
        self.patience_s = self._config.link_hello_again_s

    def listen_anew(self, now: float) -> None:
        """From now on the other side has time to acknowledge what it owes, and to say something."""
        self.heard_at = now
        for session in self.sessions.values():
            session.silent_since = now

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self.hello_again_at is not None and now >= self.hello_again_at:
            self.hello_due, self.hello_again_at = True, None
        if (asks_at := self._asks_at()) is not None and now >= asks_at:
            self.hello_due, self._asked_at = True, now
        for session in self.sessions.values():
            session.tick(now)

    def ends_at(self) -> float | None:
        """When the link is given up if nothing changes."""
        if self.state is State.DIALLING:
            return self.since + self._config.link_dial_timeout_s
        if self.state is State.REFUSING:
            return self.since + self._config.link_refusal_s
        found: float | None = None
        flight_bytes = 0
        for session in self.sessions.values():
            found = earliest(found, session.stalls_at())
            flight_bytes += session.flight_bytes
        if self.used:
            config = self._config
            silent_at = self.heard_at + config.link_stall_s + flight_bytes / config.link_slowest_bytes_per_s
            found = earliest(found, silent_at)
        return found

    def _asks_at(self) -> float | None:
        """When the other side is asked whether it is still there, if it says nothing; None: nobody wants to know."""
        if self.state is not State.UP or not self.used:
            return None
        return max(self.heard_at, self._asked_at) + self._config.link_ask_s

    def next_at(self) -> float | None:
        """When something is to be done, if nothing else happens. Blocked planes wait for `on_ready` instead."""
        found = self.ends_at()
        if Plane.CONTROL not in self.blocked:
            found = earliest(found, self.hello_again_at, self._asks_at())
        for session in self.sessions.values():
            if session.plane not in self.blocked:
                found = earliest(found, session.next_at())
        return found

    def __repr__(self) -> str:
        who, sessions = self.address or self.node.hex(), list(self.sessions.values())
        return f"Link({who}, {self.state.value}, epoch {self.epoch}, {sessions})"
