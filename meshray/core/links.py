"""Who is linked with this peer, and who may be? The table of links, one per incarnation.

Theory. Each side dials the other, so both must know where the other listens: a Hello says it. A link is *up* here once
the other's Hello or Welcome has arrived and was acceptable (same protocol, same mesh); another minor version of Python
is no reason to refuse, only marked. Whoever refuses tells the other why, so that both ends can show it.

A peer that starts anew has a new node id, so the streams of two incarnations never meet. That one was replaced is
noticed in three ways, and each ends the old link with one `PeerDown`:

1. the newcomer answers a Hello that was first said to this address when the old one was known there already;
2. our own Hello for the old one reaches the newcomer, which refuses it;
3. the failure detector says so (`down`).

That somebody says Hello from the old one's address proves nothing: it may be the late word of a predecessor. But it
raises the question, so both are asked. A Hello is said on each new connection, and again until it is answered, also to
one that is up already.

A link that was given up for silence may begin anew, as another one: each side says with which *epoch*, and the larger
one holds (see `past`). Who hears of a larger one than its link has, knows that the other side has given that up: it
ends with one `PeerDown` here, too, before the new one is up. So both ends agree on which messages belong to which link,
though they may give it up at different times. It is for the owner to `connect` again, for as long as it wants. Why
that is enough: an end has one link of an epoch at most; it is up once the other end has said the same epoch; and each
frame of a stream says it.

Who was declared dead here is refused from then on, and learns that it must begin anew under another id: from its Hello,
which says that we had met, or from any other message while we remember it. The refused end holds nobody for dead
because of that: who forgot us refuses us as well, and has us when we come again. If it is true, membership says so.

Who speaks another protocol, or belongs to another mesh, is refused as well, whichever side finds it out; and then
nothing is believed that it says without a link, for it would become a member by its datagrams alone.

Events go in, effects come out of `take_effects`. Frames are pulled: `next_frame`, then `taken` or `not_taken`, after
which that plane of that peer is left alone until `on_ready`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgspec

from meshray.config import Config
from meshray.core.link import Frame, Link, State
from meshray.core.link_effects import (
    Answered,
    Delivered,
    Dial,
    Effect,
    Forget,
    PeerDown,
    PeerUp,
    Probed,
    SelfDialled,
    TurnedAway,
)
from meshray.core.past import Past
from meshray.core.sessions import StreamFull
from meshray.wire.peers import (
    ANYBODY,
    EPOCH_MAX,
    PROTOCOL,
    Ack,
    Blocks,
    Data,
    Datagram,
    Hello,
    Payload,
    PeerMessage,
    Plane,
    Reason,
    Refused,
    Welcome,
    reason_of,
)

SEED = b"the seed "
"""Before the address, in the target of a link whose node is not known: longer than a node id, so never one, whatever
the bytes of an id are."""


STRANGE = (Reason.PROTOCOL, Reason.MESH)
"""Reasons for which whoever is refused is none of us, as long as it has its node id."""

STALE_MAX = 64
"""Timers that do not hold any more, besides three for each link, before those are sorted out."""


class UnknownPeer(Exception):
    """There is no link to this node: it was never named, or is down."""


# -- the table ---------------------------------------------------------------------------------------------------------


class Links:
    """See the head of this file. `mesh` is the mesh's id, `python` our minor version, `listens` our addresses."""

    def __init__(self, node: bytes, mesh: str, python: str, listens: list[str], key_id: str, config: Config) -> None:
        self.node = node
        self._hello = Hello(PROTOCOL, mesh, python, 0, listens, key_id)  # what we say of ourselves
        self._config = config
        self._links: dict[bytes, Link] = {}  # by target
        self._numbers: dict[int, Link] = {}  # by the number of their Hellos
        self._last_number = 0  # they grow: a peer that answers to one was there after all who were known before
        self._busy: dict[bytes, None] = {}  # targets that may have something to send, oldest first
        self._changed: dict[bytes, None] = {}  # targets whose `due_at` is to be found anew
        self._timers: list[tuple[float, bytes]] = []  # heap; a link's `timer_at` says which of its entries holds
        self._past = Past(config.links_gone_max)  # what has become of links that are over
        self._effects: list[Effect] = []
        self._untold: set[bytes] = (
            set()
        )  # whose PeerDown is among the effects: nothing is sent to them before it is told
        self.stale = 0  # messages of unknown, dead or not yet accepted peers, and answers to nothing

    # -- what the owner asks for ---------------------------------------------------------------------------------------

    def belong(self, home: bytes, life: int) -> None:
        """Whose life this is, and its number: all Hellos say so. To be called before the first one."""
        self._hello = msgspec.structs.replace(self._hello, home=home, life=life)

    def present(self, listens: list[str], key_id: str) -> None:
        """We listen elsewhere, or with another key, from now on: later Hellos say so."""
        self._hello = msgspec.structs.replace(self._hello, listens=listens, key_id=key_id)

    def dial(self, address: str, now: float, key_id: str = "") -> None:
        """Link with whoever listens there. Ends in PeerUp, TurnedAway or SelfDialled. A repeat changes nothing."""
        if all(link.address != address for link in self._links.values()):
            if self._full:
                self._effects.append(TurnedAway(address, Reason.FULL, f"this peer has {len(self._links)} links"))
                return
            self._open(SEED + address.encode(), ANYBODY, address, key_id, State.DIALLING, now)

    def connect(self, node: bytes, address: str, now: float, key_id: str = "") -> None:
        """Link with this peer, which was last seen there. For a known one with another address: it has moved.

        Nothing happens where there is no room for another link; `send` then says that there is none."""
        link = self._links.get(node)
        if node == self.node or node in self._past or self._past.is_strange(node):
            return
        if link is None:
            if not self._full:
                self._open(node, node, address, key_id, State.DIALLING, now)
        elif link.state is not State.REFUSING:
            self._move(link, address, key_id)

    def send(self, node: bytes, plane: Plane, payload: Payload, now: float) -> None:
        """One message, delivered once and in order of its plane, or there will be a PeerDown.

        Raises `UnknownPeer`, also while the end of the last link is to be told. A peer that has not acknowledged more
        than can be kept for it is given up.
        """
        link = self._links.get(node)
        if link is None or link.state is State.REFUSING or node in self._untold:
            raise UnknownPeer(node.hex())
        session = link.sessions[plane]
        try:
            session.send(payload)
        except StreamFull as error:
            self._cut(link, Reason.OTHER, str(error))
            return
        self._use(link, now)
        if session.kept == 1:
            session.silent_since = now
        self._busy[node] = None

    def window_open(self, node: bytes, plane: Plane) -> bool:
        """See `sessions`; False also without a link."""
        link = self._links.get(node)
        return link is not None and link.sessions[plane].window_open

    def portion(self, node: bytes, plane: Plane, at_most: int) -> int:
        """See `sessions`; 0 also without a link."""
        link = self._links.get(node)
        return 0 if link is None else link.sessions[plane].portion(at_most)

    def knows(self, node: bytes) -> bool:
        """Whether there is a link to this node, or one is being made."""
        link = self._links.get(node)
        return link is not None and link.state is not State.REFUSING

    def is_strange(self, node: bytes) -> bool:
        """Whether it speaks another protocol or belongs to another mesh, as far as is known: nothing is for it."""
        return self._past.is_strange(node)

    def backlog(self, node: bytes, plane: Plane) -> int:
        """How many bytes of a plane this peer has not acknowledged."""
        link = self._links.get(node)
        return 0 if link is None else link.sessions[plane].kept_bytes

    def down(self, node: bytes, text: str, now: float, reason: Reason = Reason.OTHER) -> None:
        """The failure detector's verdict: this incarnation is dead, whatever it says from now on."""
        link = self._links.get(node)
        address = "" if link is None else link.address
        if link is not None and link.state is not State.REFUSING:
            self._cut(link, reason, text)
        self._past.on_dead(node, address)

    def give_up(self, node: bytes, text: str) -> None:
        """End this link, if there is one. Another one may follow: the peer lives."""
        if self.knows(node):
            self._cut(self._links[node], Reason.OTHER, text)

    def take_effects(self) -> list[Effect]:
        """What is to be done and told, in order."""
        effects, self._effects = self._effects, []
        self._untold.clear()
        return effects

    # -- frames out ----------------------------------------------------------------------------------------------------

    def next_frame(self, now: float) -> Frame | None:
        """What is to be given to a socket next; None: nothing now."""
        while self._busy:
            link = self._links.get(next(iter(self._busy)))
            if link is not None:
                frame = link.peek(self._hello, now)
                if frame is not None:
                    return frame
                self._changed[link.target] = None
            del self._busy[next(iter(self._busy))]
        return None

    def taken(self, frame: Frame, now: float) -> None:
        """The socket has it."""
        self._links[frame.target].advance(frame, now)

    def not_taken(self, frame: Frame) -> None:
        """The socket takes nothing now; `on_ready` will say when to try again."""
        self._links[frame.target].blocked.add(frame.plane)

    def on_ready(self, target: bytes, plane: Plane, fresh: bool, now: float) -> None:
        """The socket takes messages; `fresh`: through a connection that did not stand before."""
        link = self._links.get(target)
        if link is not None:
            link.on_ready(plane, fresh, now)
            self._busy[target] = None

    # -- time ----------------------------------------------------------------------------------------------------------

    def next_at(self) -> float | None:
        """When `tick` is due, if nothing else happens; None: never. To be asked after `next_frame` gave None: only now
        it is certain that an acknowledgement, say, has not travelled with a message, and is due by itself."""
        self._set_timers()
        while self._timers:
            at, target = self._timers[0]
            link = self._links.get(target)
            if link is None or link.timer_at != at:
                heapq.heappop(self._timers)
            elif link.due_at == at:
                return at
            else:  # it is later by now
                heapq.heappop(self._timers)
                link.timer_at = None
                if link.due_at is not None:
                    self._set_timer(link, link.due_at)
        return None

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._set_timers()
        while self._timers and self._timers[0][0] <= now:
            at, target = heapq.heappop(self._timers)
            link = self._links.get(target)
            if link is None or link.timer_at != at:
                continue
            link.timer_at = None
            ends_at = link.ends_at()
            if ends_at is not None and now >= ends_at + self._config.away_after_s and link.state is State.UP:
                link.listen_anew(now)  # we were away ourselves: it may have spoken all the time
                self._busy[target] = None
            elif ends_at is not None and now >= ends_at:
                self._give_up(link, now)
            else:
                link.tick(now)
                self._busy[target] = None  # its next timer is set when it has nothing more to send

    def _set_timers(self) -> None:
        for target in self._changed:
            if (link := self._links.get(target)) is not None:
                at = link.due_at = link.next_at()
                if at is not None and (link.timer_at is None or at < link.timer_at):
                    self._set_timer(link, at)
        self._changed.clear()

    def _set_timer(self, link: Link, at: float) -> None:
        link.timer_at = at
        heapq.heappush(self._timers, (at, link.target))
        if len(self._timers) > 4 * len(self._links) + STALE_MAX:
            held = [(link.timer_at, link.target) for link in self._links.values() if link.timer_at is not None]
            heapq.heapify(held)
            self._timers = held

    def _give_up(self, link: Link, now: float) -> None:
        if link.state is State.UP:
            owes = any(session.kept for session in link.sessions.values())
            self._cut(link, Reason.OTHER, "it acknowledges nothing any more" if owes else "nothing is heard of it")
            return
        self._close(link)
        if link.state is State.DIALLING:
            self._turned_away(link, Reason.OTHER, f"no answer within {self._config.link_dial_timeout_s:g} s")

    # -- frames in -----------------------------------------------------------------------------------------------------

    def receive(
        self, destination: bytes, source: bytes, host: str, message: PeerMessage, payload: Payload, now: float
    ) -> None:
        """A message of an admitted peer. `host`: from where its connection comes. Only a Hello may have a `destination`
        other than this node."""
        if isinstance(message, Data | Ack):
            self._on_stream(source, message, payload, now)
        elif isinstance(message, Datagram):
            if self._past.is_strange(source) or isinstance(payload, Blocks):
                self.stale += 1
            else:
                self._effects.append(Probed(source, payload))
        elif isinstance(message, Hello):
            self._on_hello(destination, source, host, message, now)
        elif isinstance(message, Welcome):
            self._on_welcome(source, host, message, now)
        else:
            self._on_refused(source, message, now)

    def _on_stream(self, source: bytes, message: Data | Ack, payload: Payload, now: float) -> None:
        link = self._links.get(source)
        if link is None or link.state is not State.UP or message.epoch != link.epoch:
            self.stale += 1
            if link is None and (address := self._past.where_dead(source)) is not None:
                self._refuse(source, address, Refused(0, Reason.DEAD, "declared dead here"), now)
            return
        link.heard_at = now
        session = link.sessions[message.plane]
        if isinstance(message, Ack):
            session.on_ack(message, now)
        elif session.on_data(message, len(payload), now):
            link.used = True
            for whole in session.whole(message, payload):
                self._effects.append(Delivered(source, session.plane, whole))
        self._busy[source] = None

    def _on_hello(self, destination: bytes, source: bytes, host: str, hello: Hello, now: float) -> None:
        if source == self.node:
            self._on_self(hello.number)
            return
        address = where(hello.listens, host)
        refused = self._why_not(source, hello)
        if refused is None and destination not in (self.node, ANYBODY):
            refused = Refused(hello.number, Reason.REPLACED, "another peer has started at this address")
        link = self._links.get(source)
        unknown = link is None or link.state is State.REFUSING
        if refused is None and hello.met and unknown and not self._past.may_begin_anew(source):
            refused = Refused(hello.number, Reason.DEAD, "declared dead here, or forgotten")
        if refused is not None:
            self._refuse(source, address, refused, now)
            return
        link = self._accept(source, address, hello, None, now)
        if link is not None:
            link.welcome_due = hello.number
            link.met = link.met or destination == self.node

    def _on_welcome(self, source: bytes, host: str, welcome: Welcome, now: float) -> None:
        asked = self._numbers.get(welcome.number)
        if asked is None or asked.node not in (ANYBODY, source) or source == self.node:
            self.stale += 1
            return
        refused = self._why_not(source, welcome)
        if refused is not None:
            refused = msgspec.structs.replace(refused, number=0)  # that of a Welcome is ours
            self._refuse(source, asked.address, refused, now)
            if asked.target != source:
                self._close(asked)
            if refused.reason == Reason.DEAD and asked.node == ANYBODY:
                self._effects.append(Answered(asked.address, source))
            return
        if asked.node == ANYBODY:
            self._close(asked)
        said = asked.epoch
        link = self._accept(source, asked.address, welcome, asked, now)
        if link is not None:
            link.met = True
            if link is asked and link.state is State.UP:
                link.on_answered()
            if link.state is State.UP and link.epoch > said:
                link.hello_due = True  # it waits for our word that this is the link
        if asked.node == ANYBODY:
            self._effects.append(Answered(asked.address, source))

    def _on_refused(self, source: bytes, refused: Refused, now: float) -> None:
        link = self._numbers.get(refused.number) if refused.number else self._links.get(source)
        reason = reason_of(refused)
        if link is None or (link.node not in (ANYBODY, source) and reason is not Reason.REPLACED):
            self.stale += 1
            return
        if reason in STRANGE:
            self._past.on_strange(source)
        if link.state is State.UP:
            if reason in (Reason.OTHER, Reason.FULL, Reason.DEAD):  # whether we are dead is for membership to find out
                self._cut(link, reason, f"refused: {refused.text}")
            else:
                self.down(link.node, f"refused: {refused.text}", now, reason)
        elif link.state is State.DIALLING:
            self._close(link)
            self._turned_away(link, reason, refused.text)
            if reason is Reason.DEAD and link.node == ANYBODY:
                self._effects.append(Answered(link.address, source))
            if reason is Reason.REPLACED:
                self._past.on_dead(link.node, link.address)

    # -- deciding ------------------------------------------------------------------------------------------------------

    def _why_not(self, source: bytes, said: Hello | Welcome) -> Refused | None:
        """Why there can be no link with whoever says this."""
        ours = self._hello
        if said.protocol != ours.protocol:
            text = f"who refuses speaks version {ours.protocol} of the protocol, the other version {said.protocol}"
            return Refused(said.number, Reason.PROTOCOL, text)
        if said.mesh != ours.mesh:
            text = f"who refuses belongs to mesh {ours.mesh}, the other to mesh {said.mesh}"
            return Refused(said.number, Reason.MESH, text)
        if source in self._past:
            return Refused(said.number, Reason.DEAD, "declared dead here")
        if source not in self._links and self._full:
            return Refused(said.number, Reason.FULL, f"this peer has {len(self._links)} links")
        return None

    def _accept(
        self, source: bytes, address: str, said: Hello | Welcome, asked: Link | None, now: float
    ) -> Link | None:
        """The link to an acceptable peer: up, if both ends mean the same one now. `asked`: to whose Hello this is the
        answer, from the address of that one."""
        if not address:
            self.stale += 1  # it listens nowhere: nobody can answer it
            return None
        for other in [link for link in self._links.values() if link.address == address and link.node != source]:
            if other.node == ANYBODY or other.state is State.REFUSING:
                continue
            if asked is not None and asked.number > other.number:
                self.down(other.node, "another peer has started at its address", now, Reason.REPLACED)
            else:
                other.hello_due = True  # which of the two is there? One of them may be a late word
                self._busy[other.target] = None
        link = self._links.get(source)
        if link is not None and link.state is State.REFUSING:
            self._close(link)
            link = None
        if link is not None and link.state is State.UP and said.epoch > link.epoch:
            self._cut(link, Reason.OTHER, "it has given up the link")
            link = None
        if link is None:
            link = self._open(source, source, address, said.key_id, State.DIALLING, now)
        elif link.address != address and link.address not in said.listens:
            self._move(link, address, said.key_id)
        if said.epoch > link.epoch:
            link.take_epoch(said.epoch)
        if said.epoch == link.epoch and link.on_heard(said.python, now):
            compatible = said.python == self._hello.python
            self._effects.append(PeerUp(source, link.address, said.python, compatible, said.home, said.life))
        self._busy[source] = self._changed[source] = None
        return link

    def _refuse(self, source: bytes, address: str, refused: Refused, now: float) -> None:
        """Tell it why. A link that is up stays so for REPLACED: then its sender looked for somebody else."""
        if refused.reason in STRANGE:
            self._past.on_strange(source)
        link = self._links.get(source)
        if link is not None and link.state is not State.REFUSING and refused.reason != Reason.REPLACED:
            if link.state is State.UP:
                self._cut(link, reason_of(refused), refused.text)
            else:
                self._close(link)
            link = None
        if link is None:
            if not address or len(self._links) >= 2 * self._config.links_max:
                self.stale += 1
                return
            link = self._open(source, source, address, "", State.REFUSING, now)
            self._turned_away(link, reason_of(refused), refused.text)
        link.refusal = refused
        self._busy[source] = None

    def _on_self(self, number: int) -> None:
        link = self._numbers.get(number)
        if link is None or link.node != ANYBODY:
            self.stale += 1
            return
        self._close(link)
        self._effects.append(SelfDialled(link.address))

    def _turned_away(self, link: Link, reason: Reason, text: str) -> None:
        self._effects.append(TurnedAway(link.address, reason, text))
        if link.node != ANYBODY and link.state is State.DIALLING:
            self._tell_down(link.node, reason, text)

    # -- the table's own -----------------------------------------------------------------------------------------------

    def _open(self, target: bytes, node: bytes, address: str, key_id: str, state: State, now: float) -> Link:
        link = Link(target, node, address, key_id, state, now, self._config)
        self._number(link)
        link.take_epoch(self._past.epoch_for(node))
        self._links[target] = link
        self._busy[target] = self._changed[target] = None
        self._effects.append(Dial(target, address, key_id))
        return link

    def _number(self, link: Link) -> None:
        self._last_number += 1
        link.number = self._last_number
        self._numbers[link.number] = link

    @property
    def _full(self) -> bool:
        return len(self._links) >= self._config.links_max

    def _close(self, link: Link) -> None:
        del self._links[link.target]
        del self._numbers[link.number]
        self._busy.pop(link.target, None)
        self._effects.append(Forget(link.target))
        if link.node == ANYBODY or link.state is State.REFUSING:
            return
        self._past.on_over(link.node, link.epoch)
        if link.epoch >= EPOCH_MAX:
            self._past.on_dead(link.node, link.address)  # it has said more than there can have been

    def _cut(self, link: Link, reason: Reason, text: str) -> None:
        """The link is over. Unless the peer is dead, another one may follow."""
        self._close(link)
        self._tell_down(link.node, reason, text)

    def _tell_down(self, node: bytes, reason: Reason, text: str) -> None:
        self._effects.append(PeerDown(node, reason, text))
        self._untold.add(node)

    def _use(self, link: Link, now: float) -> None:
        """Somebody may wait for an answer from now on."""
        if not link.used:
            link.used, link.heard_at = True, now

    def _move(self, link: Link, address: str, key_id: str) -> None:
        if link.address != address:
            del self._numbers[link.number]  # what is answered from where it was says nothing any more
            self._number(link)
        if (link.address, link.key_id) != (address, key_id):
            link.address, link.key_id = address, key_id
            link.blocked.clear()
            self._effects.append(Dial(link.target, address, key_id))
            self._busy[link.target] = None

    def __iter__(self) -> Iterator[Link]:
        return iter(self._links.values())

    def __repr__(self) -> str:
        return f"Links({self.node.hex()}, {list(self._links.values())})"


def where(listens: list[str], host: str) -> str:
    """The address to dial a peer that listens there and whose connection comes from `host`; "" when there is none."""
    for address in listens:
        if address.rpartition(":")[0].strip("[]") == host:
            return address
    return listens[0] if listens else ""
