"""The peer's life: build everything, serve, end everything.

The loop. One wake is one batch, in this order: zygotes (births and exit codes), messages, prints, deaths, deadlines.
Messages come before deaths, so that what a process had sent before it died is known when its death is handled. After
each step the cores' effects are performed. Last comes the mesh, where there is one (`mesh`). Nothing here ever waits
but the one poll.

The endpoint is drained each time; when a flood does not let us come to its end, the rest of the batch is served all the
same, and the next poll returns at once. But what a dead process had sent is read to its end before its death counts.

An exception that nobody expected ends the peer, loudly. When a death was told to half of the cores, or an effect was
not performed that its core takes for done, something would wait for ever; what a dead peer means is known to all. Only
a handler that fails with one message is noted and no more (`dispatch`). So nothing that others say may lead to such an
exception later: the schema refuses what no core could make sense of (`tests/peer/test_dispatch.py`).
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import msgspec

from meshray.config import Config, preset
from meshray.core.actors import Actors
from meshray.core.adoption import Adoption
from meshray.core.assignment import Device
from meshray.core.deadlines import earliest
from meshray.core.effects import RequestActorSlot
from meshray.core.fencing import Fencing
from meshray.core.fetches import Fetches
from meshray.core.foreign_actors import ForeignActors
from meshray.core.guests import Guests
from meshray.core.leases import Leases
from meshray.core.lives import Life
from meshray.core.lodging import Lodging
from meshray.core.moves import Moves
from meshray.core.naming import Naming
from meshray.core.objects import Objects
from meshray.core.placement import Here
from meshray.core.programs import Programs
from meshray.core.road import Road
from meshray.core.serving import Serving
from meshray.core.store_accounts import StoreAccounts
from meshray.core.whereabouts import Whereabouts
from meshray.core.wills import Wills
from meshray.launch import MeshSettings, PeerSettings
from meshray.local import PYTHON, Claim, claim_store, peer_process, read_record
from meshray.observe.notes import note
from meshray.peer.children import Children
from meshray.peer.copies import CopyHands, finder
from meshray.peer.detect import detect
from meshray.peer.dispatch import Dispatcher
from meshray.peer.draining import Draining
from meshray.peer.ends import Ends
from meshray.peer.folders import FolderLostError, OwnFolders
from meshray.peer.foreign import Foreign
from meshray.peer.jobs import Jobs
from meshray.peer.log_flow import LogFlow
from meshray.peer.logs import Logs
from meshray.peer.parts import Cores, Parts
from meshray.peer.perform import Performer
from meshray.peer.prints import Prints
from meshray.peer.processes import Kind, Processes
from meshray.peer.starts import Starts
from meshray.peer.timers import Timers, boot_time
from meshray.peer.traffic import Traffic
from meshray.peer.view import PartsView
from meshray.peer.zygotes import ForkFailed, WorkerExited, WorkerForked, ZygoteDied, Zygotes
from meshray.resources import UNIT
from meshray.store.copies import copy_capacity
from meshray.store.folders import choose_folder, default_capacity, make_folder
from meshray.store.transit import Transit
from meshray.strategy import ANYWHERE
from meshray.transport.endpoint import Endpoint
from meshray.wire.messages import PeerStops

STORE_MIN_BYTES = 128 << 20
"""Shared memory with less room than this is not worth it; the tests' presets and small hosts may ask for less."""

BATCHES_MAX = 32
"""Batches of messages per wake, before everything else gets its turn."""

RETRY_S = 0.01
"""How soon what waits for a descriptor, or for a process to take our connection, is tried again."""

OWN_DESCRIPTORS, WORKER_DESCRIPTORS = 23, 6
"""What a peer off the network has open without workers, and at most for each while that starts; see
`launch.DESCRIPTORS_MIN`."""

END_TIMEOUT_S = 1.5
"""How long the zygotes may take to end their workers; I5: nothing is left after 2 s."""


def serve(
    settings: PeerSettings,
    claim: Claim,
    name: str,
    zygote: tuple[int, socket.socket],
    on_ready: Callable[[str, list[str], bool], None],
) -> None:
    """Be a peer in the claimed folder until it is told to stop, or its driver ends. Call it from the main thread.

    `zygote`: of `fork_zygote()`, taken over. `on_ready(store folder, warnings, whether it listens for its mesh)` is
    called once it serves.
    Raises what keeps it from serving, `FolderLostError` when it had to end since a folder of its own was removed, and
    `AssertionError` when its books are wrong; everything is ended before.
    """
    config = preset(settings.preset)
    zygotes = Zygotes(config)
    executable, prefix = zygotes.start_default(zygote)
    store_claim: Claim | None = None
    parts: Parts | None = None
    try:
        store_folder, store_claim, capacity, warnings = _store(settings, claim.folder)
        host = detect(settings, capacity)
        config, few = _bound_workers(config, host.totals.get("CPU", 0))
        warnings += few
        devices = tuple(Device(gpu.index, gpu.visible) for gpu in host.gpus)
        node = settings.node
        transit = Transit(store_folder)
        store = StoreAccounts(config, capacity, transit.has)
        objects = Objects(config, node, store)
        actors = Actors(config, node, objects)
        adoption = Adoption(config, peer_process(node), objects)
        guest = settings.mesh is not None and settings.mesh.guest
        here = Here(node, host.labels, Random(), name, guest)
        leases = Leases(host.totals, (executable, prefix), config, devices, here)
        processes = Processes()
        road = Road(config, node, PYTHON, processes)
        fetches = Fetches(config, node, copy_capacity, transit.has, leases.placement.called)
        objects.called = leases.placement.called
        whereabouts = Whereabouts(objects.knows)
        serving = Serving(config, finder(node, store, fetches))
        lodging, guests, fencing = _for_actors(config, node, leases, name)
        wills = Wills(config, node, actors, leases.placement.heir)
        programs = Programs(config, node, objects, processes)
        programs.is_wanted = guests.awaits_job
        programs.known_job = lambda job: leases.job_info(job, ended=True)
        leases.job_is_needed = lambda job: (
            _has_living_actors(actors, job)
            or guests.needs(job)
            or wills.needs(job)
            or programs.is_owed(job)
            or (leases.leaving and programs.keeps(job))  # its heirs may ask for it yet
        )
        record = read_record(claim.folder)
        assert record is not None, f"{claim.folder} was claimed without a record"
        parts = Parts(
            config=config,
            record=record,
            labels=host.labels,
            node=node,
            process_id=peer_process(node),
            folder=claim.folder,
            store_folder=store_folder,
            transit=transit,
            cores=Cores(
                leases,
                actors,
                lodging,
                guests,
                fencing,
                ForeignActors(),
                Naming(config, leases.placement.is_strange, actors.last_words),
                wills,
                programs,
                adoption,
                objects,
                store,
                fetches,
                whereabouts,
                serving,
                Moves(config, node, objects.knows, leases.placement.keeper),
                road,
            ),
            endpoint=Endpoint(claim.folder, peer_process(node), config),
            zygotes=zygotes,
            children=Children(),
            logs=Logs(config),
            log_flow=LogFlow(config, node),
            timers=Timers(),
            processes=processes,
            started_at=time.monotonic(),
        )
        if settings.mesh is not None:
            _join_mesh(parts, settings.mesh, name)
            warnings = [*warnings, *(parts.mesh.warnings() if parts.mesh is not None else ())]
        loop = Loop(parts, settings.driver_pid, settings.foreground)
        on_ready(str(store_folder), warnings, parts.mesh is not None and parts.mesh.listens)
        loop.run()
    finally:
        zygotes.close(END_TIMEOUT_S)
        if parts is not None:
            if parts.mesh is not None:
                parts.mesh.close()
            parts.children.close()
            parts.logs.close_all()
            parts.endpoint.close()
        if store_claim is not None:
            store_claim.release()


def _join_mesh(parts: Parts, settings: MeshSettings, name: str) -> None:
    """Open the port, and look for the others. Imported here: a peer off the network loads neither ZeroMQ nor mDNS."""
    from meshray.peer.mesh import Mesh, Resources
    from meshray.peer.mesh_life import Who
    from meshray.transport.floods import raise_descriptor_limit

    raise_descriptor_limit()  # a connection is a descriptor; the zygote, forked before, keeps what programs expect
    leases = parts.cores.leases

    def resources() -> Resources:
        store = parts.cores.store.stats()
        return Resources(leases.slots.total, leases.available(), store.live, store.capacity)

    who = Who(name, parts.record.version, parts.node, labels=parts.labels)
    parts.mesh = Mesh(settings, who, parts.config, resources, time.monotonic())
    parts.cores.road.linked = True
    parts.cores.objects.alone = False
    parts.cores.objects.object_freed = parts.cores.whereabouts.on_object_freed
    parts.cores.store.on_process_attached(parts.process_id, os.getpid())  # copies are its own
    if settings.guest:
        parts.mesh.wait_joined()


def _bound_workers(config: Config, cpus: int) -> tuple[Config, list[str]]:
    """No more workers than there are file descriptors for: where none is left the zygote cannot hand over what it has
    forked, and all of them end with it. A warning, where that is less than the CPUs are for (an amount)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    workers = (limit - OWN_DESCRIPTORS) // WORKER_DESCRIPTORS
    if limit == resource.RLIM_INFINITY or workers >= config.workers_max:
        return config, []
    by = f"{limit} file descriptors, by ulimit -n, are enough for no more"
    config = msgspec.structs.replace(config, workers_max=max(1, workers), workers_max_by=by)
    wanted = min(-(-cpus // UNIT), preset("default").workers_max)
    if wanted <= workers:
        return config, []
    enough = OWN_DESCRIPTORS + wanted * WORKER_DESCRIPTORS
    return config, [
        f"a peer may have {limit} file descriptors here (ulimit -n): enough for {workers} workers at a time, not for "
        f"{wanted} CPUs, which take {enough}"
    ]


def _store(settings: PeerSettings, folder: Path) -> tuple[Path, Claim | None, int, list[str]]:
    """The folder of the segments, made; its claim when it is in shared memory; its capacity; warnings."""
    wanted = settings.object_store_memory
    fallback = folder / "store"
    chosen = choose_folder(settings.node.hex(), os.getuid(), min(wanted or STORE_MIN_BYTES, 1 << 50), fallback)
    claim: Claim | None = None
    if chosen.shared_memory:
        claim = claim_store(settings.node)
    else:
        make_folder(fallback)
    store_folder = claim.folder if claim is not None else fallback
    capacity = wanted if wanted is not None else default_capacity(store_folder)
    return store_folder, claim, capacity, [chosen.warning] if chosen.warning else []


def _for_actors(config: Config, node: bytes, leases: Leases, name: str) -> tuple[Lodging, Guests, Fencing]:
    """What lets actors live on other hosts, and those of others here."""
    fencing = Fencing(config)

    def choose(request: RequestActorSlot, waits_at: bytes, refused: frozenset[bytes]) -> bytes | None:
        return leases.actor_host(request, waits_at, [*fencing.avoided(boot_time()), *refused], time.monotonic())

    def why_not(job: bytes) -> str:
        return leases.placement.why_not_here(ANYWHERE, job, sent=True)

    return Lodging(config, node, choose, leases.knows_job), Guests(leases.knows_job, name, why_not), fencing


def _has_living_actors(actors: Actors, job: bytes) -> bool:
    return any(actor.spec.job == job and actor.life is not Life.DEAD for actor in actors.all())


class Loop:
    """See the head of this file."""

    def __init__(self, parts: Parts, driver_pid: int, foreground: bool = False) -> None:
        self._parts = parts
        self._numbers = (signal.SIGTERM, signal.SIGINT) if foreground else (signal.SIGTERM,)  # that end it
        self._starts = Starts(parts, os.getpid())
        self._jobs = Jobs(parts, self._starts, driver_pid)
        self._prints = Prints(parts)
        self._ends = Ends(parts, self._starts, self._jobs)
        self._draining = Draining(parts)
        self._dispatcher = Dispatcher(parts, self._jobs, self._ends, PartsView(parts, self._draining))
        self._foreign = Foreign(parts, self._jobs, self._dispatcher)
        self._copies = CopyHands(parts)
        self._folders = OwnFolders(parts)
        self._performer = Performer(parts, self._starts, self._foreign, self._copies)
        self._traffic = Traffic(parts, self._copies, self._performer.settle)
        self._poller = select.poll()
        self._of_mesh: list[int] = []  # its descriptors, as the poller has them
        self._driver_pidfd = -1  # of the driver that a private peer ends with
        self._more = False  # messages may be left from the last batch
        self._due_at: float | None = None  # the earliest deadline, as it was before the last poll
        self._fence_at: float | None = None  # and that of the fences, by the clock that goes on while the host sleeps
        self._signals, self._wakeup = socket.socketpair()
        self._signals.setblocking(False)
        self._wakeup.setblocking(False)
        if driver_pid:
            try:
                self._driver_pidfd = os.pidfd_open(driver_pid)
            except ProcessLookupError:
                parts.stop("its driver ended before it served")
            else:
                self._poller.register(self._driver_pidfd, select.POLLIN)
        for fd in (self._signals.fileno(), parts.endpoint.fd, parts.zygotes.fd, parts.children.fd, parts.logs.fd):
            self._poller.register(fd, select.POLLIN)

    def run(self) -> None:
        """Serve until `parts.stopping`. Raises `FolderLostError`."""
        previous = {number: signal.signal(number, self._on_end_signal) for number in self._numbers}
        previous_fd = signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        try:
            now = time.monotonic()
            self._parts.cores.leases.start(now)
            self._performer.settle(now)
            self._traffic.turn(set(), now)  # whom a guest has met while it joined: its driver may ask at once
            while not self._parts.stopping:
                self._wake()
            self._say_that_we_stop()
            if self._folders.lost:
                raise FolderLostError(self._folders.lost)
        finally:
            signal.set_wakeup_fd(previous_fd)
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._copies.close()
            self._signals.close()
            self._wakeup.close()
            if self._driver_pidfd >= 0:
                os.close(self._driver_pidfd)

    def _say_that_we_stop(self) -> None:
        """So that others need not wait for us, and drivers need not think that we have crashed."""
        if self._parts.mesh is not None:
            self._parts.mesh.leave(time.monotonic())
        endpoint = self._parts.endpoint
        for process in self._parts.processes:
            if process.kind is Kind.DRIVER:
                endpoint.send(process.id, PeerStops(self._parts.stopping))
        endpoint.flush()

    def _on_end_signal(self, number: int, _: object) -> None:
        what = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        if self._parts.leaving:  # a second one
            self._parts.stop(what)
        self._parts.leave(what, self._parts.config.leave_work_s)

    def _wake(self) -> None:
        """One batch."""
        parts = self._parts
        self._watch()
        now = time.monotonic()
        self._hold_prints(now)
        timeout_ms = self._timeout_ms(now)
        ready = {fd for fd, _ in self._poller.poll(timeout_ms)}
        now = time.monotonic()
        if not ready and timeout_ms and not parts.endpoint.must_retry and self._timeout_ms(now) != 0:
            return  # it was the deadline of what does not matter any more: of what has travelled with a message since
        if self._driver_pidfd in ready:
            parts.stop("its driver has ended")
            return
        if self._signals.fileno() in ready:
            with suppress(BlockingIOError):
                self._signals.recv(4096)
        self._on_fences(now)
        self._on_zygotes(ready, now)
        self._on_messages(ready, now)
        self._on_prints(ready, now)
        self._on_deaths(ready, now)
        self._on_time(now)
        self._take_zygote_events(now)
        self._performer.settle(now)
        self._traffic.turn(ready, now)
        self._jobs.look_after_ended(now)
        self._performer.settle(now)
        if self._draining.turn(now):
            self._performer.settle(now)
            self._traffic.turn(set(), now)
        if parts.endpoint.must_retry:
            parts.endpoint.flush()
            if trouble := parts.endpoint.take_trouble():
                note(trouble)

    def _watch(self) -> None:
        """Lives of the mesh come and go, with their descriptors; a number that was used again is no trouble."""
        mesh = self._parts.mesh
        fds = mesh.fds() if mesh is not None else []
        if fds != self._of_mesh:
            for fd in self._of_mesh:
                self._poller.unregister(fd)
            for fd in fds:
                self._poller.register(fd, select.POLLIN)
            self._of_mesh = fds

    def _hold_prints(self, now: float) -> None:
        """Nothing is read of what workers print whose drivers are behind with showing it."""
        parts = self._parts
        held_up = parts.log_flow.held_up(now)
        parts.logs.hold((lambda worker: parts.processes.job_of(worker) in held_up) if held_up else None)

    def _timeout_ms(self, now: float) -> float | None:
        """Until the next deadline; None: for ever."""
        parts = self._parts
        cores = parts.cores
        self._fence_at = cores.fencing.next_deadline()
        self._due_at = due_at = earliest(
            cores.leases.deadline(),
            cores.actors.next_deadline(),
            cores.lodging.next_deadline(),
            cores.naming.next_deadline(),
            cores.wills.next_deadline(),
            cores.adoption.next_deadline(),
            cores.store.next_deadline(),
            cores.fetches.next_deadline(),
            cores.road.next_deadline(),
            self._draining.next_deadline(),
            parts.children.next_expiry(),
            parts.timers.next_deadline(),
            parts.log_flow.next_deadline(now),
            now + self._fence_at - boot_time() if self._fence_at is not None else None,
            parts.mesh.next_at(now) if parts.mesh is not None else None,
            now + RETRY_S if parts.endpoint.must_retry else None,
        )
        if self._more or self._copies.more or parts.endpoint.holds:
            return 0
        return None if due_at is None else max(0.0, (due_at - now) * 1000)

    def _on_fences(self, now: float) -> None:
        """First of all: this host may have slept, and what waits in our sockets may come from actors that have no right
        to live any more."""
        if self._fence_at is not None and self._fence_at <= boot_time():
            self._parts.cores.fencing.tick(boot_time())
            self._performer.settle(now)

    def _on_zygotes(self, ready: set[int], now: float) -> None:
        parts = self._parts
        if parts.zygotes.fd in ready:
            parts.zygotes.on_ready(now)
        self._take_zygote_events(now)

    def _take_zygote_events(self, now: float) -> None:
        parts = self._parts
        while events := parts.zygotes.take_events():
            for event in events:
                if isinstance(event, WorkerForked):
                    self._starts.on_forked(event)
                elif isinstance(event, ForkFailed):
                    self._starts.on_failed(event, now)
                elif isinstance(event, WorkerExited):
                    parts.children.on_exit_code(event.process_id, event.code)
                elif isinstance(event, ZygoteDied):
                    note(f"the zygote of {event.interpreter.executable} died: {event.reason}")
                    parts.counters["zygotes died"] += 1
                    parts.children.on_zygote_died(event.workers)
            self._performer.settle(now)

    def _on_messages(self, ready: set[int], now: float) -> None:
        endpoint = self._parts.endpoint
        if endpoint.fd not in ready and not self._more and not endpoint.holds:
            return
        for _ in range(BATCHES_MAX):
            batch = endpoint.receive()
            if not batch:
                self._more = False
                return
            for source, message in batch:
                self._dispatcher.dispatch(source, message, now)
            self._performer.settle(now)
        self._more = True

    def _on_prints(self, ready: set[int], now: float) -> None:
        logs = self._parts.logs
        if logs.fd in ready:
            logs.on_ready()
            self._prints.send(now)

    def _on_deaths(self, ready: set[int], now: float) -> None:
        children = self._parts.children
        if children.fd in ready:
            children.on_ready(now)
        children.expire(now)
        for ended in children.take_ended():
            for source, message in self._parts.endpoint.drain(ended.process_id):
                self._dispatcher.dispatch(source, message, now)
            self._performer.settle(now)
            self._ends.on_ended(ended, now)
            self._performer.settle(now)

    def _on_time(self, now: float) -> None:
        """Do what is due. A deadline that this very batch has set is seen before the next poll, which then ends at
        once."""
        if self._due_at is None or now < self._due_at:
            return
        cores = self._parts.cores
        for core, deadline in (
            (cores.leases, cores.leases.deadline()),
            (cores.actors, cores.actors.next_deadline()),
            (cores.lodging, cores.lodging.next_deadline()),
            (cores.naming, cores.naming.next_deadline()),
            (cores.wills, cores.wills.next_deadline()),
            (cores.adoption, cores.adoption.next_deadline()),
            (cores.store, cores.store.next_deadline()),
            (cores.fetches, cores.fetches.next_deadline()),
            (cores.road, cores.road.next_deadline()),
        ):
            if deadline is not None and deadline <= now:
                core.tick(now)
        self._parts.timers.run_due(now)
