"""Which actor has this name, in the whole mesh?

`core.names` knows the names of this peer's own actors, and nobody else decides about those. Here is what it takes to
have them known, and to be the only one:

- **Claims.** Before a named actor is created, all members are asked whether they have one of that name (`NameClaim`);
  each answers for its own. Two who claim at the same time ask each other: the older claim goes on, the younger one
  asks again from the start when it hears of the older one. So of two that can hear each other one is created: the last
  round of the loser begins after it has heard of the winner, and the winner refuses it. Who does not answer in time is
  taken not to have it: names are soft state, and work in a part of the mesh that is cut off.
- **Tales.** Each peer tells all others the names of its actors (`NamesHeld`, `NameFreed`), and new members all of them.
  They say whom to ask first (`FindActor`), and that one is waited for as long as it is a member: it may be cut off for
  a moment. Where they say nothing, or what is over, everybody is asked, and who does not answer in time is taken not to
  have the name, as with claims: it would have told.
- **Conflicts.** Both sides of a partition may create one of the same name. When they hear of each other, the younger
  one's owner ends it. Which is older is said by the clocks of their hosts: a wrong clock spares the wrong one, but
  never both, nor neither.
- **Other versions of Python.** A name is taken in the whole mesh, but an actor is found only where our version of
  Python runs: calls, what they are given and what they return are pickles, which may have code in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from msgspec import Struct

from meshray.config import Config
from meshray.core.effects import Core, CreateNamed, HoldFor, LetGo, NameChanged, NameConflict, Send
from meshray.core.names import LAST_WORDS, LAST_WORDS_CHARS, name_taken, no_such_name, other_python
from meshray.core.watchers import name_conflict
from meshray.ids import FIRST_RETURN
from meshray.wire.messages import (
    ActorFound,
    CreateActor,
    Failure,
    FindActor,
    Message,
    NameAnswer,
    NameClaim,
    NamedActor,
    NameFreed,
    NamesHeld,
)

NAMES_AT_ONCE = 256
"""At most so many names travel in one message (the schema allows more)."""

Key = tuple[str, str]
"""Namespace and name."""


class NamingStats(Struct, frozen=True):
    """A snapshot; counts."""

    own: int
    told: int  # by others
    claims: int
    finds: int
    conflicts: int  # actors that ended for their name
    left_out: int  # names of others that were too many to remember


class Creation(NamedTuple):
    """A CreateActor with a name, on its way."""

    sender: bytes
    message: CreateActor
    born_ms: int


class _Claim:
    """A name that an actor of this peer is about to have."""

    __slots__ = ("again_at", "behind", "creations", "deadline", "number", "silent")

    def __init__(self, creation: Creation) -> None:
        self.creations = [creation]  # the one that claims, and those that wait for how it ends
        self.number = 0  # of this round
        self.silent: set[bytes] = set()  # members that have not answered in this round
        self.behind = False  # an older claim was met in this round
        self.deadline = 0.0  # of this round
        self.again_at: float | None = None  # between two rounds


class _Find:
    """A name that a process of this host looks for."""

    __slots__ = ("creation", "everybody", "key", "last_words", "mute", "process", "request", "silent")

    def __init__(self, process: bytes, request: int, key: Key, creation: Creation | None = None) -> None:
        self.process = process
        self.request = request
        self.key = key
        self.creation = creation  # of get_if_exists: what is to be created if there is none after all
        self.silent: set[bytes] = set()  # who was asked and has not answered
        self.everybody = False  # all were asked
        self.mute = 0  # so many of them had not answered in time
        self.last_words = ""  # how the last actor of that name has died, if somebody has said so


class Naming(Core):
    """See the head of this file. Other peers are named by their process ids; of some of them `is_strange`: another
    version of Python runs there. `last_words(namespace, name)`: how the last actor of ours of that name has died, or
    ""."""

    def __init__(
        self,
        config: Config,
        is_strange: Callable[[bytes], bool] = lambda _: False,
        last_words: Callable[[str, str], str] = lambda namespace, name: "",
    ) -> None:
        super().__init__()
        self._last_words = last_words
        self._config = config
        self._is_strange = is_strange
        self._members: set[bytes] = set()
        self._own: dict[Key, NamedActor] = {}  # as `core.names` has them
        self._told: dict[bytes, dict[bytes, NamedActor]] = {}  # peer -> actor -> its name; bounded
        self._others: dict[Key, dict[bytes, NamedActor]] = {}  # the same by name: peer -> its actor; no empty ones
        self._claims: dict[Key, _Claim] = {}
        self._rounds: dict[int, Key] = {}  # whose claim has this number: each one's last round
        self._finds: dict[int, _Find] = {}  # by the number of the question
        self._deadlines: dict[int, float] = {}  # of those finds for which everybody was asked; the earliest is first
        self._number = 0  # of the last claim's round, or question
        self._conflicts = self._left_out = 0

    # -- members -----------------------------------------------------------------------------------------------------

    def on_member_up(self, peer: bytes) -> None:
        """It hears our names, and of claims. A repeat changes nothing."""
        if peer in self._members:
            return
        self._members.add(peer)
        own = list(self._own.values())
        for begin in range(0, len(own), NAMES_AT_ONCE):
            self._tell(peer, NamesHeld(own[begin : begin + NAMES_AT_ONCE]))
        for claim in self._claims.values():
            if claim.again_at is None:
                claim.silent.add(peer)
                self._tell(peer, NameClaim(claim.number, _claimed(claim)))

    def on_member_down(self, peer: bytes, now: float) -> None:
        """It answers no more, and its names are nobody's."""
        self._members.discard(peer)
        for actor_id in list(self._told.get(peer, ())):
            self._forget(peer, actor_id)
        for key, claim in list(self._claims.items()):
            if peer in claim.silent:
                self._answered(key, claim, peer, now)
        for number, find in list(self._finds.items()):
            if peer in find.silent:
                self._not_there(number, find, peer, now)

    def members(self) -> list[bytes]:
        """Who is there, as far as is known here."""
        return sorted(self._members)

    # -- own names ---------------------------------------------------------------------------------------------------

    def on_create(self, sender: bytes, message: CreateActor, now: float, born_ms: int) -> None:
        """A process of this host creates a named actor."""
        key = (message.namespace, message.name)
        claim = self._claims.get(key)
        creation = Creation(sender, message, born_ms)
        if claim is not None:
            if all(message.actor_id != other.message.actor_id for other in claim.creations):
                claim.creations.append(creation)
        elif key in self._own or not self._members:
            self._effects.append(CreateNamed(sender, message))
        else:
            claim = self._claims[key] = _Claim(creation)
            self._ask(claim, now)

    def on_changed(self, changed: NameChanged, born_ms: int) -> None:
        """An actor of this peer has a name, or has it no more."""
        key = (changed.namespace, changed.name)
        if changed.taken:
            held = self._own[key] = NamedActor(*key, changed.actor_id, born_ms)
            self._tell_all(NamesHeld([held]))
            for theirs in self._others.get(key, {}).values():
                self._compare(held, theirs)
        else:
            self._own.pop(key, None)
            self._tell_all(NameFreed(changed.actor_id))

    # -- claims ------------------------------------------------------------------------------------------------------

    def _ask(self, claim: _Claim, now: float) -> None:
        """The first round, or another one."""
        self._rounds.pop(claim.number, None)
        self._number += 1
        claim.number = self._number
        self._rounds[claim.number] = _key_of(claim)
        claim.behind, claim.again_at = False, None
        claim.deadline = now + self._config.name_claim_timeout_s
        claim.silent = set(self._members)
        self._tell_all(NameClaim(claim.number, _claimed(claim)))

    def on_claim(self, peer: bytes, message: NameClaim) -> None:
        """Another peer claims a name."""
        theirs = message.claim
        key = (theirs.namespace, theirs.name)
        own = self._own.get(key)
        claim = self._claims.get(key)
        if own is not None:
            self._tell(peer, NameAnswer(message.number, own))
        elif claim is not None and _is_older(_claimed(claim), theirs):
            self._tell(peer, NameAnswer(message.number, _claimed(claim), pending=True))
        else:
            if claim is not None:
                claim.behind = True
            self._tell(peer, NameAnswer(message.number))

    def on_answer(self, peer: bytes, message: NameAnswer, now: float) -> None:
        """What a member says to a claim of ours."""
        key = self._rounds.get(message.number)
        claim = self._claims[key] if key is not None else None
        if key is None or claim is None or peer not in claim.silent:
            return
        if message.holder is not None and not message.pending:
            self._lose(key, peer, now)
            return
        claim.behind = claim.behind or message.pending
        self._answered(key, claim, peer, now)

    def _answered(self, key: Key, claim: _Claim, peer: bytes, now: float) -> None:
        claim.silent.discard(peer)
        if not claim.silent:
            self._round_is_over(key, claim, now)

    def _round_is_over(self, key: Key, claim: _Claim, now: float) -> None:
        if claim.behind:
            claim.again_at = now + self._config.name_claim_again_s
            return
        self._end_claim(key)
        self._effects.extend(CreateNamed(each.sender, each.message) for each in claim.creations)

    def _lose(self, key: Key, owner: bytes, now: float) -> None:
        """Another peer has an actor of that name."""
        for creation in self._end_claim(key).creations:
            request = creation.message.request_id
            if self._is_strange(owner):
                self._tell(creation.sender, ActorFound(request, failure=other_python(*key, created=True)))
            elif creation.message.get_if_exists:
                self._look_for(_Find(creation.sender, request, key, creation), {owner}, now)
            else:
                self._tell(creation.sender, ActorFound(request, failure=name_taken(*key)))

    def _end_claim(self, key: Key) -> _Claim:
        claim = self._claims.pop(key)
        del self._rounds[claim.number]
        return claim

    # -- tales -------------------------------------------------------------------------------------------------------

    def on_held(self, peer: bytes, message: NamesHeld) -> None:
        """Names of another peer's actors."""
        self.on_member_up(peer)  # it is there before anybody has told of it
        told = self._told.setdefault(peer, {})
        for theirs in message.names:
            if len(told) >= self._config.names_told_max and theirs.actor_id not in told:
                self._left_out += 1
                continue
            key = (theirs.namespace, theirs.name)
            self._forget(peer, theirs.actor_id)
            told[theirs.actor_id] = theirs
            self._others.setdefault(key, {})[peer] = theirs
            own = self._own.get(key)
            if own is not None:
                self._compare(own, theirs)

    def on_freed(self, peer: bytes, message: NameFreed) -> None:
        """An actor of another peer has its name no more."""
        self._forget(peer, message.actor_id)

    def _compare(self, own: NamedActor, theirs: NamedActor) -> None:
        if own.actor_id == theirs.actor_id or not _is_older(theirs, own):
            return
        self._conflicts += 1
        text = (
            f"actor {own.actor_id.hex()} is dead: it had the name {own.name!r} of namespace {own.namespace!r}, and so "
            f"has an older one ({theirs.actor_id.hex()}), which could not be seen from here when this one was created"
        )
        self._effects.append(NameConflict(own.actor_id, name_conflict(own.actor_id, text)))

    def _forget(self, peer: bytes, actor_id: bytes) -> None:
        told = self._told.get(peer)
        theirs = told.pop(actor_id, None) if told is not None else None
        if theirs is None:
            return
        if not told:
            del self._told[peer]
        key = (theirs.namespace, theirs.name)
        others = self._others.get(key, {})
        if others.get(peer) == theirs:
            del others[peer]
            if not others:
                del self._others[key]

    # -- finding -----------------------------------------------------------------------------------------------------

    def on_find(self, process: bytes, message: FindActor, now: float) -> None:
        """A process of this host looks for an actor that is not this peer's own."""
        key = (message.namespace, message.name)
        if len(self._finds) >= self._config.finds_max:
            failure = Failure("MeshrayError", f"{len(self._finds)} actors are being looked for by name: too many")
            self._tell(process, ActorFound(message.request, failure=failure))
            return
        self._look_for(_Find(process, message.request, key), set(self._others.get(key, ())), now)

    def _look_for(self, find: _Find, asked: set[bytes], now: float) -> None:
        """Ask these, or else everybody."""
        asked = asked & self._askable()
        find.everybody = not asked
        find.silent = asked or self._askable()
        if not find.silent:
            self._give_up(find, now)
            return
        self._number += 1
        self._ask_for(self._number, find, now)

    def _ask_for(self, number: int, find: _Find, now: float) -> None:
        """Ask the silent ones."""
        self._finds[number] = find
        if find.everybody:
            self._deadlines[number] = now + self._config.name_claim_timeout_s
        namespace, name = find.key
        for peer in sorted(find.silent):
            self._tell(peer, FindActor(number, name, namespace))

    def on_found(self, peer: bytes, message: ActorFound, now: float) -> None:
        """What another peer says. It holds a handle for us, if it has the actor."""
        find = self._finds.get(message.request)
        if find is None or peer not in find.silent:
            if message.failure is None:
                self._effects.append(LetGo(message.actor_id + FIRST_RETURN))  # another one was first
            return
        if message.failure is not None:
            find.last_words = message.failure.details.get(LAST_WORDS, find.last_words)[:LAST_WORDS_CHARS]
            self._not_there(message.request, find, peer, now)
            return
        self._end_find(message.request)
        self._effects.append(HoldFor(find.process, message.actor_id + FIRST_RETURN))
        self._tell(find.process, ActorFound(find.request, message.actor_id, message.methods))

    def _not_there(self, number: int, find: _Find, peer: bytes, now: float) -> None:
        find.silent.discard(peer)
        if not find.silent:
            self._nobody_has_it(number, now)

    def _nobody_has_it(self, number: int, now: float) -> None:
        """Of those who were asked."""
        find = self._end_find(number)
        if not find.everybody and (askable := self._askable()):
            find.everybody = True  # those who were asked are asked again: an actor may have moved
            find.silent = askable
            self._ask_for(number, find, now)
        else:
            self._give_up(find, now)

    def _askable(self) -> set[bytes]:
        """Members that may have an actor for us."""
        return {peer for peer in self._members if not self._is_strange(peer)}

    def _end_find(self, number: int) -> _Find:
        self._deadlines.pop(number, None)
        return self._finds.pop(number)

    def _give_up(self, find: _Find, now: float) -> None:
        if find.creation is not None:  # it was there a moment ago
            self.on_create(find.process, find.creation.message, now, find.creation.born_ms)
            return
        if any(map(self._is_strange, self._others.get(find.key, ()))):
            failure = other_python(*find.key)
        else:
            last_words = self._last_words(*find.key) or find.last_words
            failure = no_such_name(*find.key, self.others(*find.key), find.mute, last_words)
        self._tell(find.process, ActorFound(find.request, failure=failure))

    # -- the end of processes, and time ------------------------------------------------------------------------------

    def on_process_died(self, process: bytes, now: float) -> None:
        """It asks for nothing any more."""
        for number in [number for number, find in self._finds.items() if find.process == process]:
            self._end_find(number)
        for key, claim in list(self._claims.items()):
            first = claim.creations[0].sender
            claim.creations = [creation for creation in claim.creations if creation.sender != process]
            if not claim.creations:
                self._end_claim(key)
            elif first == process:
                self._ask(claim, now)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        if not self._claims and not self._deadlines:
            return None
        times = [claim.deadline if claim.again_at is None else claim.again_at for claim in self._claims.values()]
        times += islice(self._deadlines.values(), 1)
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Rounds end, and begin again; who has not answered is awaited no more."""
        for key, claim in list(self._claims.items()):
            if claim.again_at is not None:
                if claim.again_at <= now:
                    self._ask(claim, now)
            elif claim.deadline <= now:
                claim.silent.clear()
                self._round_is_over(key, claim, now)
        for number in [number for number, deadline in self._deadlines.items() if deadline <= now]:
            find = self._finds[number]
            find.mute = len(find.silent)
            self._nobody_has_it(number, now)

    # -- small ones --------------------------------------------------------------------------------------------------

    def _tell(self, process: bytes, message: Message) -> None:
        self._effects.append(Send(process, message))

    def _tell_all(self, message: Message) -> None:
        for peer in sorted(self._members):
            self._tell(peer, message)

    # -- reading -----------------------------------------------------------------------------------------------------

    def others(self, namespace: str, name: str) -> list[str]:
        """Namespaces other than this one in which the name is taken, for a hint to people."""
        keys = {*self._own, *self._others}
        return sorted(space for space, taken in keys if taken == name and space != namespace)

    def all(self) -> Iterator[NamedActor]:
        """Every name in the mesh, once for each actor, as far as it is known here."""
        yield from self._own.values()
        for others in self._others.values():
            yield from others.values()

    def stats(self) -> NamingStats:
        told = sum(map(len, self._told.values()))
        return NamingStats(len(self._own), told, len(self._claims), len(self._finds), self._conflicts, self._left_out)


def _claimed(claim: _Claim) -> NamedActor:
    first = claim.creations[0]
    return NamedActor(first.message.namespace, first.message.name, first.message.actor_id, first.born_ms)


def _key_of(claim: _Claim) -> Key:
    first = claim.creations[0].message
    return first.namespace, first.name


def _is_older(one: NamedActor, other: NamedActor) -> bool:
    return (one.born_ms, one.actor_id) < (other.born_ms, other.actor_id)
