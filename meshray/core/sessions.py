"""Has it arrived, once and in order? One stream of a link between two incarnations of peers, on one plane.

Theory. A TCP connection is first in, first out, but it can end, and nobody knows then what of it arrived. A socket that
has accepted a message may also lose it without a word. So each direction numbers its messages from 1, keeps each until
the other side has acknowledged it, and after a loss begins again behind the last acknowledged one (go-back-N: what is
lost is the tail of a dead connection, never a single hole, so keeping what came too early would gain nothing).

The receiver takes exactly the next number. A smaller one is a *duplicate*: dropped, and acknowledged at once, since its
sender seems to have missed that. A larger one is behind a *gap*: dropped, and the sender is asked to begin again. When
the sender begins again:

1. a connection was made anew (`on_connected`): what the old one held is gone;
2. the receiver asks for it (`Ack.again`): at once, but once for one gap;
3. the answer to a question shows that something is missing (`Ack.answers`). It is asked when there was no progress for
   a time that doubles, plus what a slow link needs for what is on its way (`tick`).

Why a question, and not the messages themselves? A connection is first in, first out, so what left ahead of the question
and is not acknowledged in its answer is lost. Where there is no answer yet the link may just be slow. What is sent once
more then waits behind the first copies, so it comes later still, and is sent once more again (Karn and Partridge,
SIGCOMM 1987, have that problem with what has no order). A question costs next to nothing, however often it is asked.

What arrives late is not lost: a message counts as progress only when it is whole, and so do the heartbeats of libzmq,
which see whole frames. One that the link carries in seconds would end it, though its bytes flow. So a large message of
the control plane leaves in *parts* of which several fit into what should be on its way (`pace`), each numbered and
acknowledged like a message, and at once; the receiver delivers the whole. On a fast link almost nothing is large. (The
other plane gets its pieces cut to size: `portion`.)

At most a window of messages and bytes is on its way; what exceeds it waits here. The stream has a pull face, so that a
socket that is not ready stops it without a loss: `peek` gives the next frame, `advance` says that it was taken.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from meshray.config import Config
from meshray.core.deadlines import earliest
from meshray.core.pace import Pace
from meshray.wire.peers import Ack, Blocks, Data, Payload, Plane

PORTIONS = 4
"""So many pieces fill what may be on its way over a slow link: one leaves as soon as one has arrived."""

PORTIONS_FAST = 2
"""And over one that is fast enough for all that may be: one leaves while the other arrives. Large ones are less
work."""

WITH_ANSWER_S = 1e-4
"""An acknowledgement of something large is due after the turn that has received it, not in its midst: what asks for the
next piece may take it along."""

WHOLE_MAX_FRAMES = 2
"""A message is a frame at most; with what peers add to it, it is far shorter than two."""

_Part = tuple[Payload, bool]
"""A message, or a part of one, and whether more of the same message follows."""


class StreamFull(Exception):
    """The peer has not acknowledged for so long that no more can be kept for it: it is lost to the sender."""


class StreamStats(NamedTuple):
    """A snapshot, for status and tests."""

    kept_messages: int
    kept_bytes: int
    delivered: int
    duplicates: int
    gaps: int
    replayed: int
    strange: int


class Session:
    """Both directions of one stream, as one of its ends sees them. Neither the other incarnation nor the epoch of the
    link changes, once anything was sent."""

    __slots__ = (
        "_ack_at",
        "_acked",
        "_again",
        "_answer",
        "_asked_at",
        "_config",
        "_flight",
        "_flight_bytes",
        "_highest",
        "_owed",
        "_owed_bytes",
        "_parts",
        "_parts_dropped",
        "_patience_s",
        "_progress_at",
        "_question",
        "_question_due",
        "_question_up_to",
        "_received",
        "_rewound_at",
        "_splits",
        "_waiting",
        "_waiting_bytes",
        "duplicates",
        "epoch",
        "gaps",
        "pace",
        "plane",
        "replayed",
        "silent_since",
        "strange",
    )

    def __init__(self, plane: Plane, config: Config) -> None:
        self.plane = plane
        self.epoch = 0  # of the link, in every frame; kept with the table, final before the first one
        self._config = config
        # sending: acknowledged | in flight | waiting. Numbers begin with `_acked` + 1 at the head of `_flight`.
        self._acked = 0  # all up to here have arrived
        self._splits = plane is Plane.CONTROL  # large messages leave in parts
        self._flight: deque[_Part] = deque()  # given to the socket, not acknowledged
        self._flight_bytes = 0
        self._waiting: deque[_Part] = deque()  # not given to the socket, or to be given again
        self._waiting_bytes = 0
        self._highest = 0  # the largest number that was ever given to the socket
        self._progress_at = 0.0  # the last acknowledgement of something, question, or first message of a flight
        self._patience_s = config.link_replay_after_s  # doubles with each question
        self._question = 0  # the number of the last question
        self._question_due = False  # it is to be given to the socket now
        self._question_up_to: int | None = None  # what had left ahead of it; None: its answer does not matter any more
        self._rewound_at: int | None = None  # `_acked` when the receiver asked to begin again
        self.silent_since = 0.0  # the last acknowledgement, or the first message after all were; kept with the table
        self.pace = Pace(config)  # how much should be on its way
        # receiving
        self._received = 0  # all up to here have come
        self._parts: bytearray | None = None  # what has come of a message that is not whole yet; None: of none
        self._parts_dropped = False  # it was too long
        self._owed = 0  # messages delivered and not acknowledged yet
        self._owed_bytes = 0
        self._ack_at: float | None = None  # when an acknowledgement of its own is due; None: nothing to acknowledge
        self._again = False  # the next one asks the other side to begin again
        self._asked_at: float | None = None  # the last time it asked for the number after `_received`
        self._answer = 0  # the question that the next one answers; 0: none
        # counted
        self.duplicates = 0  # dropped, since delivered before
        self.gaps = 0  # dropped, since something before them is missing
        self.replayed = 0  # messages given to the socket again
        self.strange = 0  # acknowledgements of what was never sent

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, payload: Payload) -> None:
        """Keep `payload` until it has arrived; it is not to be changed meanwhile. Raises `StreamFull`."""
        config = self._config
        kept = self._flight_bytes + self._waiting_bytes
        if self.kept >= config.link_kept_max_messages or (kept and kept + len(payload) > config.link_kept_max_bytes):
            raise StreamFull(f"{self.kept} messages of {kept} bytes wait for an acknowledgement")
        self._waiting.append((payload, False))
        self._waiting_bytes += len(payload)

    @property
    def kept(self) -> int:
        """Messages that have not been acknowledged; of one that leaves in parts each counts."""
        return len(self._flight) + len(self._waiting)

    @property
    def kept_bytes(self) -> int:
        """And how many bytes these have."""
        return self._flight_bytes + self._waiting_bytes

    @property
    def flight_bytes(self) -> int:
        """How many of these are on their way."""
        return self._flight_bytes

    @property
    def window_open(self) -> bool:
        """Whether one more message would leave at once. A relay stops taking messages for this peer while it is not."""
        config = self._config
        return (
            self.kept < config.link_window_messages
            and self._flight_bytes + self._waiting_bytes < config.link_window_bytes
        )

    def portion(self, at_most: int) -> int:
        """In pieces of which size large things should be given to this stream now, so that what comes next does not
        wait for long; 0: not now. `at_most`: bytes that may be on their way, however fast the link. One message always
        may."""
        allowance = min(at_most, self.pace.allowance)
        if not self.window_open or self._flight_bytes + self._waiting_bytes >= allowance:
            self.pace.on_limited()
            return 0
        portions = PORTIONS if allowance < at_most else PORTIONS_FAST
        return max(allowance // portions, self._config.link_least_bytes)

    def peek(self, now: float) -> tuple[Data | Ack, Payload | None] | None:
        """The next frame to give to the socket: a message, which acknowledges too, or else an acknowledgement that is
        due. None: nothing now. It stays the next one until `advance`."""
        if self._ack_at is not None and (self._again or self._answer):
            return Ack(self.plane, self._received, self._again, self.epoch, 0, self._answer), None
        if self._question_due:
            return Ack(self.plane, self._received, False, self.epoch, self._question), None
        sequence = self._acked + len(self._flight) + 1
        if self._waiting and self._may_leave(sequence):
            payload, more = self._waiting[0]
            return Data(self.plane, sequence, self._received, self.epoch, more), payload
        if self._ack_at is not None and self._ack_at <= now:
            return Ack(self.plane, self._received, False, self.epoch), None
        return None

    def _may_leave(self, sequence: int) -> bool:
        """Whether the next message fits into the window. One that is large for this link is cut: its first part is the
        next one then, if there is room for it. What was sent before stays as it was: its number stands for it."""
        config, pace = self._config, self.pace
        payload, more = self._waiting[0]
        if self._splits and sequence > self._highest and len(payload) > config.link_least_bytes:
            assert not isinstance(payload, Blocks), "blocks are of the other plane"
            measured = pace.rate is not None
            size = max(pace.allowance // PORTIONS if measured else 0, config.link_least_bytes)
            if len(payload) > size:
                pace.on_limited()
                if self._flight_bytes >= pace.allowance:
                    return False
                view = memoryview(payload)
                self._waiting[0] = view[size:], more
                self._waiting.appendleft((view[:size], True))
        if not self._flight:
            return True
        size = len(self._waiting[0][0])
        return len(self._flight) < config.link_window_messages and self._flight_bytes + size <= config.link_window_bytes

    def advance(self, frame: Data | Ack, now: float) -> None:
        """The socket has taken what `peek` gave."""
        if isinstance(frame, Ack):
            self._on_said(frame, now)
        else:
            alone = not self._flight
            if alone:
                self._progress_at = now
            part = self._waiting.popleft()
            size = len(part[0])
            self._flight.append(part)
            self._waiting_bytes -= size
            self._flight_bytes += size
            if frame.sequence <= self._highest:
                self.replayed += 1
            else:
                self._highest = frame.sequence
                self.pace.on_sent(frame.sequence, alone, now)
        self._ack_at = None
        self._owed = self._owed_bytes = 0

    def _on_said(self, frame: Ack, now: float) -> None:
        if frame.again:
            self._again = False
            self._asked_at = now
        if frame.answers:
            self._answer = 0
        if frame.asks:
            self._question_due = False
            self._question_up_to = self._acked + len(self._flight)

    # -- what happens ------------------------------------------------------------------------------------------------

    def on_connected(self, now: float) -> None:
        """A connection to the peer stands, and none before it will deliver anything: replay, and say again what has
        arrived. (What an old one does deliver all the same is dropped by its number.)"""
        self._rewind()
        self._rewound_at = None
        self._patience_s = self._config.link_replay_after_s
        if self._received:
            self._ack_at = now

    def on_data(self, frame: Data, size: int, now: float) -> bool:
        """A message of `size` bytes has arrived. True: it is the next one, deliver what is `whole` with it."""
        self._acknowledged(frame.ack, now)
        if frame.sequence != self._received + 1:
            if frame.sequence <= self._received:
                self.duplicates += 1
                self._ack_at = now
            else:
                self.gaps += 1
                self._ask(now)
            return False
        self._received += 1
        self._again, self._asked_at = False, None
        self._owed += 1
        self._owed_bytes += size
        config = self._config
        if frame.more:
            self._ack_at = now  # the sender may wait for that with the next part
        elif self._owed >= config.link_ack_after_messages or self._owed_bytes >= config.link_ack_after_bytes:
            due = now if self.plane is not Plane.BULK else now + WITH_ANSWER_S
            self._ack_at = due if self._ack_at is None else min(self._ack_at, due)
        elif self._ack_at is None:
            self._ack_at = now + config.link_ack_after_s
        return True

    def whole(self, frame: Data, payload: Payload) -> tuple[Payload, ...]:
        """What is to be delivered with this message, which `on_data` has taken: itself, or what has all its parts now;
        nothing while more is to come. What is longer than any message may be is dropped, and counted as strange;
        likewise Blocks as a part."""
        parts = self._parts
        if isinstance(payload, Blocks):
            if parts is None and not frame.more:
                return (payload,)
            self._parts_dropped, payload = True, b""
        if parts is None:
            if not frame.more:
                return (payload,)
            parts = self._parts = bytearray()  # not the frames themselves: of tiny ones there may be very many
        if len(parts) + len(payload) > WHOLE_MAX_FRAMES * self._config.frame_max_bytes:
            self._parts_dropped = True
            parts.clear()
        if not self._parts_dropped:
            parts += payload
        if frame.more:
            return ()
        dropped, self._parts, self._parts_dropped = self._parts_dropped, None, False
        self.strange += dropped
        return () if dropped else (memoryview(parts),)

    def on_ack(self, frame: Ack, now: float) -> None:
        """The other side says what has arrived, or asks for that."""
        self._acknowledged(frame.ack, now)
        if frame.again and frame.ack == self._acked != self._rewound_at:  # an older one speaks of a gap that is filled
            self._rewound_at = self._acked
            self._rewind()
        if frame.answers and frame.answers == self._question and self._question_up_to is not None:
            self._on_answer(now)
        if frame.asks:
            self._answer = frame.asks
            self._ack_at = now

    def _on_answer(self, now: float) -> None:
        """To our last question, and nothing was sent once more since."""
        lost = self._acked < (self._question_up_to or 0)
        self._question_up_to = None
        self._patience_s = self._config.link_replay_after_s
        self._progress_at = now
        if lost:
            self._rewind()

    def tick(self, now: float) -> None:
        """Time has passed: ask about what shows no progress."""
        if self._flight and now >= self._asks_at():
            self._question += 1
            self._question_due = True
            self._progress_at = now
            self._patience_s = min(2 * self._patience_s, self._config.link_replay_max_s)

    def next_at(self) -> float | None:
        """When `tick` or `peek` will have something to do, if nothing else happens; None: never."""
        return earliest(self._asks_at(), self._ack_at) if self._flight else self._ack_at

    def stalls_at(self) -> float | None:
        """When the other side will have acknowledged nothing for too long, if nothing comes; None: it owes nothing."""
        if not self.kept:
            return None
        config = self._config
        return self.silent_since + config.link_stall_s + self._flight_bytes / config.link_slowest_bytes_per_s

    # -- inside ------------------------------------------------------------------------------------------------------

    def _asks_at(self) -> float:
        return self._progress_at + self._patience_s + self._flight_bytes / self._config.link_slowest_bytes_per_s

    def _ask(self, now: float) -> None:
        """Ask for what is missing, but once for a whole tail behind one gap."""
        if self._asked_at is None or now >= self._asked_at + self._config.link_replay_after_s:
            self._again = True
            self._ack_at = now

    def _acknowledged(self, ack: int, now: float) -> None:
        if ack > self._highest:
            self.strange += 1
            return
        if ack <= self._acked:
            return
        before = self._flight_bytes + self._waiting_bytes
        while self._acked < ack:  # after a rewind, what was on its way before may stand among the waiting
            self._acked += 1
            if self._flight:
                self._flight_bytes -= len(self._flight.popleft()[0])
            else:
                self._waiting_bytes -= len(self._waiting.popleft()[0])
        self.pace.on_acknowledged(ack, before - self._flight_bytes - self._waiting_bytes, now)
        self._progress_at = self.silent_since = now
        self._patience_s = self._config.link_replay_after_s

    def _rewind(self) -> None:
        """All that is not acknowledged waits again. What was asked about it does not matter any more."""
        self._question_due, self._question_up_to = False, None
        self.pace.on_lost()
        self._waiting.extendleft(reversed(self._flight))
        self._flight.clear()
        self._waiting_bytes += self._flight_bytes
        self._flight_bytes = 0

    def stats(self) -> StreamStats:
        """What was counted until now."""
        return StreamStats(
            self.kept,
            self._flight_bytes + self._waiting_bytes,
            self._received,
            self.duplicates,
            self.gaps,
            self.replayed,
            self.strange,
        )

    def __repr__(self) -> str:
        return (
            f"Session({self.plane.name}, acknowledged {self._acked}, in flight {len(self._flight)}, "
            f"waiting {len(self._waiting)}, delivered {self._received})"
        )
