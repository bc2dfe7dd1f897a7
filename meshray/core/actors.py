"""Which actors does this peer own, where do they live, and why did they die?

Theory. An actor belongs to the peer of the process that created it. Its life is a table (`core.lives`); this file
reacts to what changes it and tells the *watchers*, the processes that call it: a caller learns the worker once
`__init__` has returned, so no call overtakes StartActor. Calls go straight to the worker, numbered per caller and
incarnation.

- **Scope.** A handle is a reference to the actor's first return, counted by `core.objects`. A caller keeps it until its
  last call is answered, therefore nothing is queued when the last one goes, and the worker is told to end. A detached
  actor is no matter of scope: the peer itself holds its handle until it is dead.
- **The constructor** may run again long after its creator is gone, so the peer pins what it needs (arguments in the
  store, references inside them) from CreateActor on; that message precedes the creator's own Release on one link.
- **Death.** The end of a life is announced once, when the process is gone, together with what its journal says of each
  caller's calls. Names are free as soon as the end is certain.
- **Other hosts.** Where a worker is, `core.lodging` finds. One of another host is known by its peer: that tells what
  the worker says, and its death (`GuestReady`, `GuestExit`, `GuestLost`). If that host is lost, its actors may go on
  there for a while; they start elsewhere only when that is over (`core.fencing`). Callers of another host watch as one,
  by their peer.
- **Overtaking.** Handles travel faster than CreateActor: whoever asks for an actor that is not known here, and whose
  creator lives, is answered when it is (`_early`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from meshray.config import Config
from meshray.core.early import EarlyQuestions, Question
from meshray.core.effects import (
    ActorPlaced,
    Core,
    DetachedChanged,
    DetachedLost,
    KillProcess,
    NameChanged,
    ReleaseActorSlot,
    RequestActorSlot,
    Send,
    TellCallers,
)
from meshray.core.lives import Actor, Life
from meshray.core.names import Names, name_taken, no_such_name
from meshray.core.objects import Objects
from meshray.core.watchers import Journal, journal_of, name_conflict, news
from meshray.ids import FIRST_RETURN, NODE_BYTES, node_of, owner_process_of, peer_of
from meshray.wire.messages import (
    ActorExit,
    ActorFound,
    ActorReady,
    ActorState,
    Blob,
    Borrowed,
    CreateActor,
    Exit,
    Failure,
    FindActor,
    GuestExit,
    GuestLost,
    GuestReady,
    KillActor,
    KillGuest,
    Message,
    Place,
    StartActor,
    UnwatchActor,
    WatchActor,
    Will,
)

BURIED_MAX = 4096
"""How many actors that nobody holds any more are remembered with the reason of their death."""

WHY_MAX = 48 * 1024
"""Characters of what others say of an actor's end, or of its waiting: with its names around, less than what a message
takes."""


class ActorStats(Struct, frozen=True):
    """A snapshot; counts."""

    by_life: dict[str, int]
    named: int
    early: int
    stale: int  # messages of another incarnation or of nobody


class Actors(Core):
    """The actors of one peer. Message handlers are `on_<message>(sender, message)`, with `now` where it matters.

    `awaited(actor_id)` says whether this peer may become the owner of another one's; the shell sets it."""

    def __init__(self, config: Config, node: bytes, objects: Objects) -> None:
        super().__init__()
        self._config = config
        self._node = node
        self._objects = objects
        objects.handle_freed = self._on_handle_freed
        self.awaited: Callable[[bytes], bool] = _not_awaited
        self._names = Names()
        self._actors: dict[bytes, Actor] = {}
        self._hosts: dict[bytes, Actor] = {}  # worker -> the actor it hosts
        self._early = EarlyQuestions(config.early_messages_max)
        self._handed: dict[bytes, Actor] = {}  # another peer owns them, since this one leaves
        self._buried: dict[bytes, Failure] = {}  # dead and out of everybody's hands; bounded, the oldest go first
        self._stale = 0

    # -- creation ----------------------------------------------------------------------------------------------------

    def on_create(self, sender: bytes, message: CreateActor, now: float) -> None:
        """Create an actor. A repeat is ignored."""
        if message.actor_id in self._actors or message.actor_id in self._buried:
            return
        if not self._objects.accepts(sender):
            self._stale += 1
            return
        if message.name and not self._claim(sender, message):
            return
        actor = self._actors[message.actor_id] = Actor(message, sender)
        self._objects.add_handle(message.actor_id, sender)
        if message.detached:
            self._objects.pin_for_actor(_handle(actor))
        for object_id in _needs(message):
            self._objects.pin_for_actor(object_id)
        if message.name or message.request_id:
            found = ActorFound(message.request_id, message.actor_id, message.methods, created=True)
            self._tell(sender, found)
        self._request_slot(actor)
        self._answer_early(message.actor_id)
        if message.detached:
            self._effects.append(DetachedChanged(message.actor_id))

    def _answer_early(self, actor_id: bytes) -> None:
        for asker, question in self._early.take(actor_id):
            if isinstance(question, KillActor):
                self.on_kill(asker, question)
            else:
                self.on_watch(asker, question)

    def _claim(self, sender: bytes, message: CreateActor) -> bool:
        """Take the name, or answer with the actor that has it, or with an error."""
        holder = self._names.claim(message.namespace, message.name, message.actor_id)
        if holder == message.actor_id:
            self._effects.append(NameChanged(message.namespace, message.name, message.actor_id, True))
            return True
        if message.get_if_exists:
            self._found(sender, message.request_id, self._named(holder))
        else:
            failure = name_taken(message.namespace, message.name)
            self._tell(sender, ActorFound(message.request_id, failure=failure))
        return False

    def _request_slot(self, actor: Actor) -> None:
        self._effects.append(request_for(actor.spec, actor.incarnation))

    def on_slot(self, actor_id: bytes, worker: bytes, now: float) -> None:
        """A worker is bound and dedicated to the actor."""
        actor = self._actors.get(actor_id)
        if actor is None or actor.life is not Life.PLACING:
            self._stale += 1
            self._effects.append(ReleaseActorSlot(actor_id))
            return
        actor.enter(Life.STARTING)
        actor.worker = worker
        actor.started_at = now
        self._hosts[worker] = actor
        spec = actor.spec
        start = StartActor(
            actor_id,
            actor.incarnation,
            spec.blob,
            spec.args,
            spec.deps,
            spec.max_concurrency,
            spec.name,
            spec.namespace,
            spec.methods,
        )
        self._tell(worker, start)

    def on_slot_failed(self, actor_id: bytes, text: str) -> None:
        """No worker can be started for it: its environment is broken."""
        actor = self._actors.get(actor_id)
        if actor is not None and actor.life is Life.PLACING:
            self._effects.append(ReleaseActorSlot(actor_id))  # its slots are taken, and await a worker
            failure = _died(actor, f"no worker could be started for it: {text}")
            self._mourn(actor, failure)
            self._die(actor, failure)

    def on_hopeless(self, actor_id: bytes, text: str) -> None:
        """No member can have it, nor will one that joins."""
        actor = self._actors.get(actor_id)
        if actor is not None and actor.life is Life.PLACING:
            failure = msgspec.structs.replace(_died(actor, text), kind="ActorUnschedulableError")
            self._effects.append(ReleaseActorSlot(actor_id))
            self._mourn(actor, failure)
            self._die(actor, failure)

    def on_waits(self, actor_id: bytes, text: str) -> None:
        """It has no place yet, and why; those who call it are told, since its own people are gone. "": it may have one
        soon, or they are there."""
        actor = self._actors.get(actor_id)
        if actor is None or actor.life is not Life.PLACING:
            return
        actor.waits = what_waits(actor, text) if text else ""
        if actor.waits:
            here = [watcher for watcher in sorted(actor.watchers) if watcher != peer_of(watcher)]
            self._effects.append(TellCallers(actor.waits, tuple(here)))
            for watcher in sorted(actor.watchers.difference(here)):
                self._tell(watcher, news(watcher, self._state(actor), {}, heir=actor.heir, waits=actor.waits))

    def on_ready(self, sender: bytes, message: ActorReady, now: float) -> None:
        """`__init__` returned, or failed. A failure is the end: running it again would only fail again."""
        actor = self._host(sender, message.actor_id, message.incarnation)
        if actor is None or actor.life is not Life.STARTING:
            self._stale += 1
            return
        if message.failure is not None:
            failure = _died(actor, message.failure.message, message.failure)
            self._mourn(actor, failure)
            self._end(actor, failure, now)
            return
        actor.enter(Life.ALIVE)
        self._effects.append(ActorPlaced(actor.spec.actor_id))
        self._announce(actor, {})

    def on_guest_said(self, sender: bytes, message: GuestReady | GuestExit, now: float) -> None:
        """What a worker of another host says."""
        if peer_of(message.worker) != sender:
            self._stale += 1
        elif isinstance(message, GuestReady):
            self.on_ready(message.worker, message.ready, now)
        else:
            self.on_exit(message.worker, message.exit, now)

    # -- the end -----------------------------------------------------------------------------------------------------

    def on_exit(self, sender: bytes, message: ActorExit, now: float) -> None:
        """The actor ends itself; its process goes by itself, soon."""
        actor = self._host(sender, message.actor_id, message.incarnation)
        if actor is None or actor.life not in (Life.STARTING, Life.ALIVE):
            self._stale += 1
            return
        self._leave(actor, _died(actor, "it ended itself (exit_actor)"), now)

    def on_kill(self, sender: bytes, message: KillActor) -> None:
        """Kill it now; with `no_restart` for good."""
        actor = self._actors.get(message.actor_id)
        if actor is None:
            self._come_early(sender, message)
        elif message.no_restart:
            self._kill(actor, _died(actor, "it was killed (kill)"))
        elif actor.life in (Life.STARTING, Life.ALIVE) and not actor.killed:
            actor.killed = True
            self._kill_worker(actor.worker, "kill(no_restart=False)")

    def on_name_conflict(self, actor_id: bytes, failure: Failure) -> None:
        """An older actor has its name, on a side of the mesh that was out of sight when it was created."""
        actor = self._actors.get(actor_id)
        if actor is not None:
            self._kill(actor, failure)

    def on_job_ended(self, job: bytes) -> None:
        """Its actors end, but for detached ones. Call `survivors_of` for their processes."""
        for actor in [actor for actor in self._actors.values() if actor.spec.job == job and not actor.spec.detached]:
            self._kill(actor, _died(actor, "its job ended"))

    def survivors_of(self, job: bytes) -> frozenset[bytes]:
        """Processes that outlive this job: they host its detached actors."""
        hosts = self._hosts.items()
        return frozenset(worker for worker, actor in hosts if actor.spec.job == job and actor.spec.detached)

    def _on_handle_freed(self, actor_id: bytes) -> None:
        """Nobody can call it any more, and nobody waits for a call."""
        actor = self._actors.get(actor_id)
        if actor is None:
            return  # a handle whose actor was never created: its creation was refused, or lost with its creator
        if actor.life is Life.DEAD:
            self._bury(actor)
            return
        self._end(actor, _died(actor, "its last handle went out of scope"), None)

    def on_process_died(
        self, process: bytes, why: str, journal: Journal, now: float, all_started: bool = False
    ) -> None:
        """`why` in words, as "killed by signal 9 (SIGKILL)"; `journal`: of a worker, per caller; `all_started`: it
        could not name all calls that had begun."""
        self._forget_asker(process)
        if process in self._hosts:
            self._on_worker_died(process, f"its process ended: {why}", journal, now, all_started)

    def on_guest_lost(self, sender: bytes, message: GuestLost, now: float) -> None:
        """A worker on another host is dead. A repeat is ignored."""
        actor = self._host(message.worker, message.actor_id, message.incarnation)
        if actor is None or peer_of(message.worker) != sender:
            self._stale += 1
            return
        why = message.why if message.left else f"its process ended: {message.why}"
        journal = journal_of(message.callers)
        self._on_worker_died(message.worker, why, journal, now, message.all_started, charged=not message.left)

    def on_host_gone(self, node: bytes, fence_s: float, now: float) -> None:
        """A host is lost, with all that lives and all that watches there. Its journals say nothing, so every call in
        flight counts as begun; nothing starts again before `fence_s` are over."""
        self._forget_asker(peer_of(node))
        for worker in [worker for worker in self._hosts if node_of(worker) == node]:
            self._on_worker_died(worker, "its host is gone, or cannot be reached", {}, now, True, fence_s)

    def _forget_asker(self, process: bytes) -> None:
        for asker, question in self._early.on_process_died(process):
            self._say_unknown(asker, question)
        for watched in self._actors.values():
            watched.watchers.discard(process)

    def _on_worker_died(
        self,
        worker: bytes,
        cause: str,
        journal: Journal,
        now: float,
        all_started: bool,
        fence_s: float = 0.0,
        charged: bool = True,
    ) -> None:
        actor = self._hosts.pop(worker)
        self._effects.append(ReleaseActorSlot(actor.spec.actor_id))
        actor.worker = b""
        if actor.life is Life.ENDING:
            assert actor.failure is not None, f"ending for no reason: {actor!r}"
            self._die(actor, actor.failure, journal)
        elif actor.may_restart() or (actor.spec.max_restarts and not charged):
            actor.restarts += charged
            self._restart(actor, journal, now, all_started, fence_s)
        else:
            if actor.killed:
                cause = "it was killed (kill with no_restart=False)"
            if actor.spec.max_restarts:
                cause += f", and its {actor.spec.max_restarts} restarts are used up"
            failure = _died(actor, cause)
            if not actor.killed:
                self._mourn(actor, failure)
            self._die(actor, failure, journal)

    def _restart(self, actor: Actor, journal: Journal, now: float, all_started: bool, fence_s: float) -> None:
        actor.incarnation += 1
        actor.killed = False
        pause_s = max(actor.pause_s(self._config, now), fence_s)
        if pause_s > 0:
            actor.enter(Life.BACKOFF)
            actor.deadline = now + pause_s
        else:
            actor.enter(Life.PLACING)
            self._request_slot(actor)
        self._announce(actor, journal, all_started)

    def _kill(self, actor: Actor, failure: Failure) -> None:
        """The end, at once. The first reason stays."""
        if actor.life in (Life.PLACING, Life.BACKOFF):
            self._effects.append(ReleaseActorSlot(actor.spec.actor_id))
            self._die(actor, failure)
        elif actor.life is not Life.DEAD:
            if actor.life is not Life.ENDING:
                self._leave(actor, failure, None)
            actor.deadline = None
            self._kill_worker(actor.worker, failure.message)

    def _end(self, actor: Actor, failure: Failure, now: float | None) -> None:
        """The end, in good order: the worker is told, and has a while. `now` None: as of the next `tick`."""
        if actor.life in (Life.PLACING, Life.BACKOFF):
            self._kill(actor, failure)
        elif actor.life in (Life.STARTING, Life.ALIVE):
            self._leave(actor, failure, now)
            self._tell(actor.worker, Exit(failure.message))

    def _leave(self, actor: Actor, failure: Failure, now: float | None) -> None:
        """Its end is certain; its process is still there."""
        finish_s = self._config.actor_finish_s if actor.life is Life.ALIVE else 0.0
        actor.enter(Life.ENDING)
        actor.failure = failure
        actor.exit_s = finish_s + self._config.actor_exit_timeout_s
        actor.deadline = _UNSET if now is None else now + actor.exit_s
        self._release_name(actor)
        if actor.spec.detached:
            self._effects.append(DetachedChanged(actor.spec.actor_id))

    def _die(self, actor: Actor, failure: Failure, journal: Journal | None = None) -> None:
        """It is dead, and its process gone: tell everybody, let go of what it needed."""
        actor.enter(Life.DEAD)
        actor.failure = failure
        self._release_name(actor)
        self._announce(actor, journal or {})
        actor.watchers = set()
        self._let_go(actor)
        if actor.spec.actor_id in self._actors and (actor.inherited or not self._objects.knows(_handle(actor))):
            self._bury(actor)  # it ended because its handle went

    def _mourn(self, actor: Actor, failure: Failure) -> None:
        """It dies, and nobody has wanted that. Of a detached one nobody may be there to hear it."""
        spec = actor.spec
        if spec.detached:
            if spec.name:
                self._names.mourn(spec.namespace, spec.name, failure.message)
            self._effects.append(DetachedLost(spec.actor_id, failure))

    def last_words(self, namespace: str, name: str) -> str:
        """How the last detached actor of this peer that had this name has died, if nobody wanted it; or ""."""
        return self._names.last_words(namespace, name)

    def _let_go(self, actor: Actor) -> None:
        """It will not start again."""
        spec = actor.spec
        needs = _needs(spec)
        no_blob = Blob(spec.blob.hash, spec.blob.name, b"")  # the dead need no constructor
        actor.spec = msgspec.structs.replace(spec, blob=no_blob, args=b"", deps=[], contained=[])
        if spec.detached and not actor.inherited:
            self._objects.unpin_for_actor(_handle(actor))
        for object_id in needs:
            self._objects.unpin_for_actor(object_id)

    def _bury(self, actor: Actor) -> None:
        assert actor.failure is not None, f"buried alive: {actor!r}"
        del self._actors[actor.spec.actor_id]
        self._buried[actor.spec.actor_id] = actor.failure
        while len(self._buried) > BURIED_MAX:
            del self._buried[next(iter(self._buried))]

    # -- heirs -------------------------------------------------------------------------------------------------------

    def set_heir(self, actor_id: bytes, heir: bytes) -> None:
        """Who will own a detached actor when this peer is gone: its watchers are told. Of the worker of one that was
        handed over, and does not go on, nobody will tell them what it has begun."""
        actor = self._actors.get(actor_id) or self._handed[actor_id]
        actor.heir = heir
        state = self._state(actor)
        unknown = actor_id in self._handed and not state.worker
        for watcher in sorted(actor.watchers):
            if watcher == peer_of(watcher):
                self._tell(watcher, news(watcher, state, {}, unknown, heir, actor.waits))

    def hand_over(self, actor_id: bytes, lives: bool) -> None:
        """Another peer owns it from now on. `lives`: its worker, on another host, goes on; else it is killed. Until
        this peer is gone it keeps the name for the other one, and tells who asks where to ask."""
        actor = self._handed[actor_id] = self._actors.pop(actor_id)
        self._hosts.pop(actor.worker, None)
        if not lives:
            actor.worker = b""
            self._effects.append(ReleaseActorSlot(actor_id))

    def give_way(self, actor_id: bytes) -> list[bytes]:
        """Another peer owns it, and has started it again: it ends here, and is not dead. Processes of this host that
        watch it are the answer; other peers hear of the new owner by themselves."""
        actor = self._actors.pop(actor_id)
        self._hosts.pop(actor.worker, None)
        self._release_name(actor)
        if actor.life is not Life.DEAD:
            self._effects.append(ReleaseActorSlot(actor_id))
            self._let_go(actor)
        return sorted(watcher for watcher in actor.watchers if watcher != peer_of(watcher))

    def on_inherit(self, will: Will, worker: bytes, charged: bool, now: float) -> None:
        """A detached actor of a peer that is gone is ours. `worker`: where it goes on; b"": it starts again."""
        spec, incarnation, restarts = will.spec, will.incarnation, will.restarts
        if spec.actor_id in self._actors:
            self._effects.append(DetachedChanged(spec.actor_id))
            return
        actor = self._actors[spec.actor_id] = Actor(spec, owner_process_of(spec.actor_id))
        actor.inherited, actor.incarnation, actor.restarts = True, incarnation, restarts
        for object_id in _needs(spec):
            self._objects.pin_for_actor(object_id)
        if spec.name and self._names.claim(spec.namespace, spec.name, spec.actor_id) != spec.actor_id:
            self._die(actor, name_conflict(spec.actor_id, f"{spec.name!r} was taken before its heir had it"))
        elif not worker and charged and not actor.may_restart():
            failure = _died(actor, "the peer that owned it is gone, and it has no restarts left")
            self._mourn(actor, failure)
            self._die(actor, failure)
        else:
            self._go_on(actor, worker, charged, now + will.pause_s if will.pause_s else None)
        self._answer_early(spec.actor_id)

    def _go_on(self, actor: Actor, worker: bytes, charged: bool, not_before: float | None) -> None:
        spec = actor.spec
        if spec.name:
            self._effects.append(NameChanged(spec.namespace, spec.name, spec.actor_id, True))
        if worker:
            actor.enter(Life.STARTING)
            actor.worker = worker
            actor.enter(Life.ALIVE)
            self._hosts[worker] = actor
        else:
            actor.restarts += charged
            actor.incarnation += 1
            if not_before is None:
                self._request_slot(actor)
            else:
                actor.enter(Life.BACKOFF)
                actor.deadline = not_before
        self._effects.append(DetachedChanged(spec.actor_id))

    def on_never(self, actor_id: bytes) -> None:
        """It was awaited here, and will not come."""
        for asker, question in self._early.take(actor_id):
            self._say_unknown(asker, question)

    def on_host_leaves(self, actor_id: bytes) -> None:
        """It lives on this host, which is being stopped, or is just being started on another one, and may not start
        again."""
        actor = self._actors.get(actor_id)
        if actor is not None:
            here = node_of(actor.worker) == self._node
            what = "its host was stopped" if here else "the peer that owned it was stopped while it began"
            failure = _died(actor, f"{what}, and it may not be started again (max_restarts=0)")
            self._mourn(actor, failure)
            self._kill(actor, failure)

    def on_cut_off(self, actor_id: bytes) -> None:
        """Its heir is out of sight, and so is most of the mesh: it is started there, so it must end here."""
        actor = self._actors.get(actor_id)
        if actor is not None:
            self._kill(actor, _died(actor, "its peer was cut off from most of the mesh, where it goes on"))

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        if not self._actors:
            return None
        deadlines = [actor.deadline for actor in self._actors.values() if actor.deadline is not None]
        return min(deadlines, default=None)

    def tick(self, now: float) -> None:
        """Pauses before restarts end; workers that were told to end and did not are killed."""
        for actor in [actor for actor in self._actors.values() if actor.deadline is not None]:
            if actor.deadline == _UNSET:
                actor.deadline = now + actor.exit_s
            elif actor.deadline is not None and actor.deadline <= now:
                if actor.life is Life.BACKOFF:
                    actor.enter(Life.PLACING)
                    self._request_slot(actor)
                else:
                    actor.deadline = None
                    self._kill_worker(actor.worker, "its actor ended, and it did not")

    # -- questions ---------------------------------------------------------------------------------------------------

    def on_watch(self, sender: bytes, message: WatchActor) -> None:
        """Tell the sender where the actor lives, now and whenever that changes."""
        actor = self._actors.get(message.actor_id) or self._handed.get(message.actor_id)
        if actor is None:
            self._come_early(sender, message)
            return
        if actor.life is not Life.DEAD:
            actor.watchers.add(sender)
        self._tell(sender, news(sender, self._state(actor), {}, heir=actor.heir, waits=actor.waits))
        if actor.waits and sender != peer_of(sender):
            self._effects.append(TellCallers(actor.waits, (sender,)))

    def on_unwatch(self, sender: bytes, message: UnwatchActor) -> None:
        """Nobody on that host is to be told any more."""
        actor = self._actors.get(message.actor_id) or self._handed.get(message.actor_id)
        if actor is not None:
            actor.watchers.discard(sender)
        else:
            self._early.drop_watch(sender, message.actor_id)

    def on_find(self, sender: bytes, message: FindActor) -> None:
        """The actor of a name; the sender holds its handle from now on."""
        actor_id = self._names.find(message.namespace, message.name)
        if actor_id is not None:
            self._found(sender, message.request, self._named(actor_id))
            return
        others = self._names.others(message.namespace, message.name)
        last_words = self.last_words(message.namespace, message.name)
        failure = no_such_name(message.namespace, message.name, others, last_words=last_words)
        self._tell(sender, ActorFound(message.request, failure=failure))

    def has_name(self, namespace: str, name: str) -> bool:
        """Whether an actor of this peer has it."""
        return self._names.find(namespace, name) is not None

    def named(self, namespace: str | None = None) -> Iterator[tuple[str, str, bytes]]:
        """(namespace, name, actor id) of all named actors, or of those of one namespace."""
        return (entry for entry in self._names if namespace is None or entry[0] == namespace)

    def _named(self, actor_id: bytes) -> Actor:
        return self._actors.get(actor_id) or self._handed[actor_id]

    def _found(self, sender: bytes, request: int, actor: Actor) -> None:
        if not actor.inherited and (self._objects.is_attached(sender) or self._objects.foreign.is_peer(sender)):
            self._objects.hold(_handle(actor), sender)
        self._tell(sender, ActorFound(request, actor.spec.actor_id, actor.spec.methods))

    # -- those who ask too early -------------------------------------------------------------------------------------

    def _come_early(self, sender: bytes, message: WatchActor | KillActor) -> None:
        """The actor is not known: not yet, or not any more."""
        actor_id = message.actor_id
        creator = owner_process_of(actor_id)
        will_come = actor_id not in self._buried and (self._objects.is_attached(creator) or self.awaited(actor_id))
        if not will_come or not self._early.add(sender, message):
            self._say_unknown(sender, message)

    def _say_unknown(self, asker: bytes, question: Question) -> None:
        if isinstance(question, WatchActor):
            failure = self._buried.get(question.actor_id) or self._unknown(question.actor_id)
            self._tell(asker, news(asker, ActorState(question.actor_id, 0, b"", failure), {}))

    def _unknown(self, actor_id: bytes) -> Failure:
        if actor_id[:NODE_BYTES] != self._node:
            why = "it belongs to another mesh, or to one that has ended"
        else:
            why = "the process that created it has ended, and its actor is not known"
        return Failure("ActorDiedError", f"actor {actor_id.hex()}: {why}", details={"actor_id": actor_id.hex()})

    # -- small ones --------------------------------------------------------------------------------------------------

    def _kill_worker(self, worker: bytes, reason: str) -> None:
        """Its death will be told, by whoever watches it."""
        if node_of(worker) == self._node:
            self._effects.append(KillProcess(worker, reason))
        else:
            self._tell(peer_of(worker), KillGuest(worker, reason))

    def _release_name(self, actor: Actor) -> None:
        spec = actor.spec
        if self._names.release(spec.actor_id):
            self._effects.append(NameChanged(spec.namespace, spec.name, spec.actor_id, False))

    def _host(self, sender: bytes, actor_id: bytes, incarnation: int) -> Actor | None:
        """The actor, if the sender hosts just that incarnation of it."""
        actor = self._hosts.get(sender)
        if actor is None or actor.spec.actor_id != actor_id or actor.incarnation != incarnation:
            return None
        return actor

    def _state(self, actor: Actor) -> ActorState:
        worker = actor.worker if actor.life is Life.ALIVE and not actor.killed else b""
        failure = actor.failure if actor.life is Life.DEAD else None
        return ActorState(actor.spec.actor_id, actor.incarnation, worker, failure)

    def _announce(self, actor: Actor, journal: Journal, all_started: bool = False) -> None:
        """Tell the watchers, each with what the journal says of its own calls."""
        state = self._state(actor)
        for watcher in sorted(actor.watchers):
            self._tell(watcher, news(watcher, state, journal, all_started, actor.heir))
        if actor.spec.detached:
            self._effects.append(DetachedChanged(actor.spec.actor_id))

    def _tell(self, process: bytes, message: Message) -> None:
        self._effects.append(Send(process, message))

    # -- for people and tests ----------------------------------------------------------------------------------------

    def actor(self, actor_id: bytes) -> Actor | None:
        """For reading."""
        return self._actors.get(actor_id)

    def all(self) -> list[Actor]:
        """For reading, in order of creation."""
        return list(self._actors.values())

    def stats(self) -> ActorStats:
        by_life = dict.fromkeys((life.value for life in Life), 0)
        for actor in self._actors.values():
            by_life[actor.life.value] += 1
        return ActorStats(by_life, len(self._names), len(self._early), self._stale)

    def check(self) -> None:
        """Assert that the books agree."""
        with_process = (Life.STARTING, Life.ALIVE, Life.ENDING)
        for actor_id, actor in self._actors.items():
            assert (actor.life in with_process) == bool(actor.worker), f"a process in the wrong state: {actor!r}"
            assert not actor.worker or self._hosts.get(actor.worker) is actor, f"hosted elsewhere: {actor!r}"
            assert (actor.failure is not None) == (actor.life in (Life.ENDING, Life.DEAD)), f"no reason: {actor!r}"
            assert actor.life is not Life.DEAD or self._objects.knows(actor_id + FIRST_RETURN), f"unburied: {actor!r}"
            assert not actor.inherited or actor.life is not Life.DEAD, f"unburied: {actor!r}"
        assert len(self._hosts) == sum(1 for actor in self._actors.values() if actor.worker), "a host of nobody"
        for namespace, name, actor_id in self._names:
            life = self._named(actor_id).life
            assert life not in (Life.ENDING, Life.DEAD), (
                f"{namespace}/{name} is the name of an actor that is {life.value}"
            )


def _not_awaited(actor_id: bytes) -> bool:
    """`awaited` of a peer that inherits nothing."""
    return False


_UNSET = float("-inf")
"""A deadline that the next `tick` sets: the event that needs it carries no time."""


def request_for(spec: CreateActor, incarnation: int) -> RequestActorSlot:
    """What one incarnation of an actor asks of whoever has a place."""
    return RequestActorSlot(
        spec.actor_id,
        spec.job,
        dict(spec.request),
        dict(spec.running_request),
        spec.profile,
        spec.detached,
        incarnation,
        spec.blob.name,
        spec.strategy,
    )


def _handle(actor: Actor) -> bytes:
    return actor.spec.actor_id + FIRST_RETURN


def _needs(spec: CreateActor) -> list[bytes]:
    """What the constructor needs, each once."""
    values = [spec.args, *spec.deps]
    ids = [value.object_id for value in values if isinstance(value, Place | Borrowed)]
    return list(dict.fromkeys([*ids, *spec.contained]))


def what_waits(actor: Actor, why: str) -> str:
    """What people are told of an actor that has no place yet."""
    name = f" {actor.spec.name!r}" if actor.spec.name else ""
    return f"actor {actor.spec.blob.name}{name} waits: {why[:WHY_MAX]}"


def _died(actor: Actor, why: str, cause: Failure | None = None) -> Failure:
    """The reason that every call gets from now on."""
    spec = actor.spec
    name = f" named {spec.name!r}" if spec.name else ""
    text = f"actor {spec.actor_id.hex()} of class {spec.blob.name}{name} is dead: {why[:WHY_MAX]}"
    details = {"actor_id": spec.actor_id.hex(), "class_name": spec.blob.name}
    if cause is None:
        return Failure("ActorDiedError", text, details=details)
    return Failure("ActorDiedError", text, cause.traceback, cause.cause, {**cause.details, **details})
