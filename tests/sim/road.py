"""A few hosts and their processes on the road, in one thread under a seed.

General layout. `Net` has the clock and the streams between lives; `Host` is the shell of the shipped `Road` (and of
`Departures`, which settles deaths as `Objects` does); `Process` speaks at random and answers as an engine would.

The net is as kind as `core.links` promises, and no kinder: a stream between two lives is first in, first out, until one
of them is over for the other; then nothing of it is delivered any more, and the other end learns it some time later.
A link may also end between two that live, and another one begin: each end gives it up at its own time, and has the next
one after both have.
Rumours (who is there, who is dead) reach each host at their own time, in any order. A host may be declared dead though
it lives; it then begins another life, with the same processes.

Each message of a process carries the era in which it was said: how often its sender had heard NodeGone of that host.
`Net.check` compares what was said and heard.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

from meshray.config import preset
from meshray.core.departures import Departures
from meshray.core.effects import Send
from meshray.core.road import Road
from meshray.core.road_effects import ForeignDied, ForeignSeen, Handle, HostGone, JobCame, JobGone, Sever
from meshray.ids import NODE_BYTES
from meshray.local import peer_process
from meshray.wire import messages as m
from meshray.wire.codec import decode, encode
from meshray.wire.peers import Letter

CONFIG = preset("test")
Said = tuple[int, int]
"""The era in which something was said, and its number there."""


def code_of(job: bytes) -> m.Code:
    return m.Code(job)


class Process:
    """One process of a host; its job is that of the host's first driver, or of another host's."""

    def __init__(self, host: Host, process_id: bytes, job: bytes) -> None:
        self.host, self.id, self.job = host, process_id, job
        self.era: dict[bytes, int] = defaultdict(int)  # by home: NodeGone heard
        self.said: dict[bytes, list[Said]] = defaultdict(list)  # by receiver
        self.heard: dict[bytes, list[tuple[int, Said]]] = defaultdict(list)  # by sender: own era, and what
        self.dead: set[bytes] = set()  # processes that were said to be
        self.asked = 0  # for its code
        self.unsettled: set[bytes] = set()  # those of them whose death is not settled
        self.alive = True
        self._to_peer = self._from_peer = 0.0  # times of the last deliveries: nothing overtakes them

    def say(self, other: bytes) -> None:
        home = other[:NODE_BYTES]
        if other in self.dead:
            return
        era = self.era[home]
        said = (era, sum(1 for its, _ in self.said[other] if its == era))
        self.said[other].append(said)
        self.tell(m.Relay(other, b"%d %d" % said))

    def tell(self, message: m.Message) -> None:
        """To its peer."""
        net = self.host.net
        self._to_peer = max(net.now + net.random.random() * 0.01, self._to_peer)
        net.at(self._to_peer, lambda: self.host.on_local(self, message))

    def hear(self, message: m.Message) -> None:
        """From its peer."""
        net = self.host.net
        self._from_peer = max(net.now + net.random.random() * 0.01, self._from_peer)
        net.at(self._from_peer, lambda: self._on(message))

    def _on(self, message: m.Message) -> None:
        net = self.host.net
        if not self.alive:
            return
        if isinstance(message, m.Relayed):
            assert message.source not in self.dead, f"{message.source.hex()} speaks after its death"
            era, number = map(int, message.data.split())
            self.heard[message.source].append((self.era[message.source[:NODE_BYTES]], (era, number)))
        elif isinstance(message, m.ProcessDied):
            assert message.process not in self.unsettled, f"{message.process.hex()} dies twice"
            self.unsettled.add(message.process)
            self.dead.add(message.process)
            self.tell(m.DeathSeen(message.process))
        elif isinstance(message, m.CodeWanted):
            assert self.job == self.id, "who is no driver has no program"
            self.asked += 1
            delay = net.random.random() * 0.3
            net.at(net.now + delay, lambda: self.tell(m.CodeReady(code_of(self.id))))
        elif isinstance(message, m.NodeGone):
            self.unsettled -= {each for each in self.unsettled if each[:NODE_BYTES] == message.node}
            self.era[message.node] += 1
            self.tell(m.NodeGoneSeen(message.node))
        elif isinstance(message, m.DeathSettled) and message.process[:NODE_BYTES] != self.host.home:
            self.unsettled.remove(message.process)  # it was said to be dead


class Host:
    """One peer and its processes."""

    def __init__(self, net: Net, home: bytes) -> None:
        self.net, self.home, self.number = net, home, 1
        self.life = net.random.randbytes(8)
        self.over: set[bytes] = set()  # lives that are over, for our present one
        self.epochs: dict[bytes, int] = {}  # life -> of our end of the link to it
        self.processes: dict[bytes, Process] = {}
        self.road = Road(CONFIG, home, "3.11", self)
        self.road.linked = True
        self.departures = Departures()
        self.jobs: dict[bytes, m.Code | None] = {}  # of other hosts
        self.alive = True

    # -- `Locals`

    def __contains__(self, process: bytes) -> bool:
        return process in self.processes

    def job_info(self, process: bytes) -> m.JobInfo | None:
        job = self.processes[process].job
        return m.JobInfo(job, "python", "/usr", [], "/", "", "") if job else None

    def job_lives(self, job: bytes) -> bool:
        return job in self.processes

    # -- events

    def new_process(self, job: bytes = b"", driver: bool = False) -> Process:
        process_id = self.home + self.net.random.randbytes(8)
        process = Process(self, process_id, process_id if driver else job)
        self.processes[process_id] = process
        return process

    def kill(self, process: Process) -> None:
        del self.processes[process.id]
        process.alive = False
        if process.job == process.id:
            self.road.on_local_job_over(process.id)
        abroad = self.road.on_local_died(process.id)
        for witness in self.processes.values():
            witness.hear(m.ProcessDied(process.id))
        self._settle(self.departures.open(process.id, {*self.processes, *abroad}))
        self.turn()

    def _settle(self, complete: list[bytes]) -> None:
        for process in complete:  # grows while it runs
            complete += self.departures.close(process)
            for witness in self.processes.values():
                witness.hear(m.DeathSettled(process))
            self.road.on_local_settled(process)

    def on_local(self, process: Process, message: m.Message) -> None:
        """What a process had said before it died is read before its death is noticed: it arrives."""
        if not self.alive or process.id not in self.processes:
            return
        if isinstance(message, m.Relay):
            self.road.on_relay(process.id, message, self.net.now)
        elif isinstance(message, m.CodeReady):
            self.road.on_code_ready(process.id, message)
        elif isinstance(message, m.NodeGoneSeen):
            self.road.on_seen(process.id, message)
        elif isinstance(message, m.DeathSeen):
            self._settle(self.departures.answered(process.id, message.process))
            self.road.on_death_seen(process.id, message.process)
        self.turn()

    def on_stream(self, life: bytes, destination: bytes, source: bytes, data: bytes) -> None:
        self.road.on_arrived(life, Letter(destination, source, data), self.net.now)
        self.turn()

    def rumour(self, life: bytes, home: bytes, number: int, dead: bool) -> None:
        if not self.alive or life == self.life or (life in self.over and not dead):
            return
        if dead:
            self.over.add(life)
            self.road.on_life_over(life, "no answer")
        elif home != self.home:
            self.road.on_life(life, home, number, self.net.now)
        self.turn()

    def cut(self, life: bytes) -> None:
        """The other end of a stream says that we are dead, or replaced, for it."""
        self.over.add(life)
        self.road.on_cut(life, "refused")
        self.turn()

    def give_up(self, life: bytes, epoch: int) -> None:
        """The link to a life that goes on is over: the next one will have this epoch."""
        if self.alive and life not in self.over and self.epochs.get(life, 0) < epoch:
            self.epochs[life] = epoch
            self.road.on_cut(life, "silent")
            self.turn()

    def link(self, life: bytes, epoch: int) -> None:
        """It stands."""
        if self.alive and life not in self.over and self.epochs.get(life, 0) == epoch:
            self.road.on_linked(life, self.net.now)
            self.turn()

    def begin_anew(self) -> None:
        """We hear that we are dead."""
        self.road.on_own_end("declared dead")
        self.net.by_life.pop(self.life)
        self.life, self.number, self.over = self.net.random.randbytes(8), self.number + 1, set()
        self.epochs = {}
        self.net.by_life[self.life] = self
        self.turn()

    def turn(self) -> None:
        """What the shell does after each event."""
        while True:
            for effect in self.road.take_effects():
                self._perform(effect)
            carried = False
            for home in self.road.laden():
                life = self.road.life_of(home)
                assert life is not None
                while (parcel := self.road.next(home, *self._room())) is not None:
                    data = parcel.message if isinstance(parcel.message, bytes) else encode(parcel.message)
                    carried = True
                    if life in self.over:
                        self.road.on_life_over(life, "no link")
                        break
                    self.net.carry(self, life, parcel.destination, parcel.source, data)
            if not carried and not self.road._effects:
                break
        if self.road.laden():
            self.net.at(self.net.now + 0.01, self.turn)

    def _room(self) -> tuple[bool, bool]:
        """Whether the link takes a message now, and one of a process."""
        chance = self.net.random.random()
        return chance < 0.9, chance < 0.7

    def _perform(self, effect: Any) -> None:
        if isinstance(effect, Send):
            process = self.processes.get(effect.to)
            if process is not None:
                process.hear(effect.message)
        elif isinstance(effect, Handle):
            self._handle(effect.source, decode(effect.data))
        elif isinstance(effect, ForeignSeen):
            self.road.send(peer_process(effect.process[:NODE_BYTES]), m.DeathSeen(effect.process), self.net.now)
        elif isinstance(effect, Sever):
            assert effect.over, "nobody is so slow here"
            self.over.add(effect.life)
        elif isinstance(effect, HostGone):
            peer = peer_process(effect.home)
            for process in self.departures.unanswered_by(peer):
                self._settle(self.departures.answered(peer, process))
        elif isinstance(effect, JobCame):
            job, code = effect.info.job, effect.info.code
            assert job not in self.jobs or (self.jobs[job] is None and code is not None), "it came twice"
            self.jobs[job] = code
        elif isinstance(effect, JobGone):
            del self.jobs[effect.job]
        else:
            assert isinstance(effect, ForeignDied)

    def _handle(self, source: bytes, message: Any) -> None:
        road = self.road
        if isinstance(message, m.DeathSeen):
            self._settle(self.departures.answered(source, message.process))
        elif isinstance(message, m.JobThere):
            road.on_job_there(source, message, self.net.now)
        else:
            {
                m.ProcessThere: road.on_process_there,
                m.ProcessDied: road.on_process_died,
                m.DeathSettled: road.on_death_settled,
                m.JobKnown: road.on_job_known,
                m.JobOver: road.on_job_over,
            }[type(message)](source, message)


class Net:
    """See the head of this file."""

    def __init__(self, seed: int, hosts: int = 3) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._last: dict[tuple[bytes, bytes], float] = {}  # (life, life) -> time of the last delivery
        self._epochs: dict[
            frozenset[bytes], tuple[int, float]
        ] = {}  # lives -> of their newest link, and when it stands
        self.hosts = [Host(self, self.random.randbytes(8)) for _ in range(hosts)]
        self.by_life = {host.life: host for host in self.hosts}
        self.everyone: list[Process] = []
        for host in self.hosts:
            self.introduce(host)

    def at(self, time: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, event))

    def run(self, until: float) -> None:
        while True:
            deadlines = [(host.road.next_deadline(), index) for index, host in enumerate(self.hosts) if host.alive]
            due, index = min(((at, index) for at, index in deadlines if at is not None), default=(until + 1.0, 0))
            if self._events and self._events[0][0] <= min(due, until):
                self.now, _, event = heapq.heappop(self._events)
                event()
            elif due <= until:
                self.now = due
                self.hosts[index].road.tick(due)
                self.hosts[index].turn()
            else:
                break
        self.now = until

    def introduce(self, host: Host) -> None:
        """All hear of its present life, and it of theirs, in their own time."""
        life, number = host.life, host.number
        for other in self.hosts:
            if other is not host and other.alive:
                self._rumour(other, life, host.home, number, dead=False)
                self._rumour(host, other.life, other.home, other.number, dead=False)

    def _rumour(self, to: Host, life: bytes, home: bytes, number: int, dead: bool) -> None:
        hearer = to.life

        def arrives() -> None:
            if to.life == hearer:
                to.rumour(life, home, number, dead)

        self.at(self.now + self.random.random() * 0.2, arrives)

    def carry(self, host: Host, life: bytes, destination: bytes, source: bytes, data: bytes) -> None:
        """A message on the stream between two lives."""
        key = (host.life, life)
        epoch = host.epochs.get(life, 0)
        _, stands_at = self._epochs.get(frozenset(key), (0, 0.0))
        earliest = max(self._last.get(key, 0.0), stands_at if epoch else 0.0)
        time = self._last[key] = max(self.now + self.random.random() * 0.03, earliest)

        number = host.number

        def arrives() -> None:
            other = self.by_life.get(life)
            if other is not None and other.alive and key[0] not in other.over:
                if other.epochs.get(key[0], 0) != epoch:
                    return  # its sender hears, or has heard, that this link is over
                other.road.on_life(key[0], host.home, number, self.now)  # the link has said so before
                other.on_stream(key[0], destination, source, data)
            elif other is None or not other.alive or key[0] in other.over:
                self.at(self.now + self.random.random() * 0.1, lambda: self._refuse(host, *key))

        self.at(time, arrives)

    def _refuse(self, host: Host, ours: bytes, theirs: bytes) -> None:
        other = self.by_life.get(theirs)
        if host.alive and host.life == ours and (other is None or other.alive):  # of a dead host only rumour tells
            host.cut(theirs)

    def break_link(self, one: Host, other: Host) -> None:
        """The link between two hosts ends, and another one begins some time after both ends have given it up."""
        lives = one.life, other.life
        if not one.alive or not other.alive or one.life in other.over or other.life in one.over:
            return
        pair = frozenset(lives)
        epoch = self._epochs.get(pair, (0, 0.0))[0] + 1
        times = [self.now + self.random.random() * 0.5 for _ in lives]
        stands = [max(times) + self.random.random() * 0.3 for _ in lives]
        self._epochs[pair] = epoch, max(stands)
        for host, ours, theirs, time, stands_at in zip(
            (one, other), lives, reversed(lives), times, stands, strict=True
        ):
            self.at(time, lambda h=host, o=ours, t=theirs: h.life == o and h.give_up(t, epoch))  # type: ignore[misc]
            self.at(stands_at, lambda h=host, o=ours, t=theirs: h.life == o and h.link(t, epoch))  # type: ignore[misc]

    def declare_dead(self, host: Host) -> None:
        """It lives; some hear of its death before it does, some afterwards."""
        life = host.life
        for other in self.hosts:
            if other is not host and other.alive:
                self._rumour(other, life, host.home, host.number, dead=True)

        def hears() -> None:
            if host.alive and host.life == life:
                host.begin_anew()
                self.introduce(host)

        self.at(self.now + self.random.random() * 0.2, hears)

    def power_off(self, host: Host) -> None:
        host.alive = False
        for process in host.processes.values():
            process.alive = False
        for other in self.hosts:
            if other is not host and other.alive:
                self._rumour(other, host.life, host.home, host.number, dead=True)

    # -- what must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """What was heard was said, once and in order, and eras of two processes never mix."""
        by_id = {process.id: process for process in self.everyone}
        for receiver in self.everyone:
            for sender, heard in receiver.heard.items():
                eras: dict[int, int] = {}
                numbers: dict[int, int] = defaultdict(int)
                for own_era, (era, number) in heard:
                    assert eras.setdefault(own_era, era) == era, f"eras mix: {heard}"
                    assert number == numbers[era], f"lost, doubled or out of order: {heard}"
                    numbers[era] += 1
                assert len(set(eras.values())) == len(eras), f"one era in two: {heard}"
                assert sorted(eras.values()) == [eras[own] for own in sorted(eras)]
                assert set(numbers) <= {era for era, _ in by_id[sender].said[receiver.id]}

    def check_quiet(self) -> None:
        """In the end everything has arrived, or its sender was told."""
        by_id = {process.id: process for process in self.everyone}
        for sender in self.everyone:
            if not sender.alive:
                continue
            for other, said in sender.said.items():
                receiver = by_id[other]
                if other in sender.dead:
                    assert not receiver.alive
                    continue
                era = sender.era[other[:NODE_BYTES]]
                current = [each for each in said if each[0] == era]
                heard = [each for _, each in receiver.heard[sender.id] if each[0] == era]
                assert not current or receiver.alive, f"nobody has told of a death: {sender.id.hex()} {other.hex()}"
                assert heard == current, f"{sender.id.hex()} to {other.hex()}: {current} {heard}"
        for host in (host for host in self.hosts if host.alive):
            assert not len(host.departures), "deaths that nobody settles"
            assert not host.road.foreigners._silent
            assert not host.road.foreigners._unsettled
            assert not host.road.foreigners._told
            assert not host.road._barred
            for job, code in host.jobs.items():
                assert by_id[job].alive, "a job that is over is known"
                assert by_id[job].asked == 1, "its driver was asked more than once"
                assert code == code_of(job), "a job waits for its code for ever"
