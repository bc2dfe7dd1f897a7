"""How do processes of different hosts speak with each other? Each by way of its own peer, which passes it on unread.

Theory. A stream between two peers (`core.sessions`) delivers once and in order, or both hosts are gone for each other.
What a process of this host says to another host's goes onto that stream, in the order of its pair, and from there to
its receiver. So everything that holds for messages on one host holds between two, if the ends are told as well:

- *A process dies.* Its peer says ProcessDied to each host that it dealt with, after all it had said; the peer there
  says so to each process that dealt with the dead one. These answer DeathSeen, as ever; when all have, their peer
  answers for the host. A witness that dies itself is waited for until its own death is settled (`core.departures`).
- *A host is gone*, or cut off, or we were declared dead ourselves and all are gone for us. Each process here that dealt
  with it hears NodeGone, once; so does our own peer (`HostGone`).
- *It is out of reach*: alive for others, and the link to it was given up. For us it is gone like a dead one, until a
  link stands again; whatever is said to it meanwhile is answered with NodeGone.
- *It comes back.* A host that was only cut off has the same processes, and may be spoken to again. Nothing that was
  meant for before may arrive after: the old stream is over at both ends, and what a process says to that host before it
  has answered NodeGoneSeen is dropped (*barred*).
- *A job.* A host hears of a job before it hears of the first process that serves it, from whichever peer that one is
  of. It then tells the peer of the job's driver (JobKnown), which tells all who know it when it is over. The first
  time that a job of ours is told, its driver is asked for its code; the answer is told to all who know the job.

**What it costs.** A process has at most RELAY_WINDOW_BYTES, or one larger message, on its way to another: the rest
waits with itself, until the receiver's peer says RelayTaken. That one counts what it gave to the receiver, and says so
when half a window has come together and nothing waits for the receiver's socket. The peers never stop reading.

What peers say themselves waits for the window of the link as well, here, not in the link, which keeps a bounded part
for a peer that is slow. It goes before what is relayed; but values that were asked for (`Fetched`) are as large as what
processes say, and take turns with that.

Events go in, effects come out of `take_effects`; what is to leave is pulled: `next` for each home of `laden`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from meshray.config import Config
from meshray.core.deadlines import earliest
from meshray.core.effects import Core, Send
from meshray.core.foreigners import Foreigners
from meshray.core.gone import remember
from meshray.core.homes import Homes
from meshray.core.jobs_abroad import JobsAbroad
from meshray.core.road_effects import ForeignDied, ForeignSeen, Handle, HostGone, JobCame, JobGone, Sever
from meshray.core.ways import Pair, Parcel, Way
from meshray.ids import NODE_BYTES
from meshray.local import peer_process
from meshray.wire.messages import (
    RELAY_WINDOW_BYTES,
    CodeReady,
    CodeWanted,
    DeathSettled,
    Fetched,
    JobDone,
    JobInfo,
    JobKnown,
    JobOver,
    JobThere,
    Message,
    NodeGone,
    NodeGoneSeen,
    NodeSilent,
    ProcessDied,
    ProcessThere,
    Relay,
    Relayed,
    RelayTaken,
)
from meshray.wire.peers import Letter

GONE_MAX = 1024
"""Hosts that are gone and remembered with the reason: whoever asks for them hears it at once."""


class Locals(Protocol):
    """The processes of this host that have attached and live."""

    def __contains__(self, process: bytes) -> bool: ...

    def job_info(self, process: bytes) -> JobInfo | None:
        """The job that it serves, or has made."""

    def job_lives(self, job: bytes) -> bool:
        """Whether this is a job of a driver here, and not over."""


class Road(Core):
    """See the head of this file. `linked`: this peer belongs to a mesh; else nobody else is anywhere."""

    def __init__(self, config: Config, node: bytes, python: str, locals_: Locals) -> None:
        super().__init__()
        self.node = node
        self.process_id = peer_process(node)
        self.linked = False
        self.counters: Counter[str] = Counter()  # what was dropped, and why
        self.foreigners = Foreigners()
        self._config = config
        self._python = python
        self._locals = locals_
        self._homes = Homes(node)
        self._jobs = JobsAbroad(node)
        self._ways: dict[bytes, Way] = {}  # by home; made by the first message either way
        self._laden: dict[bytes, None] = {}  # homes for which something may wait
        self._gone: dict[bytes, str] = {}  # homes that are gone, and why
        self._cut: dict[bytes, str] = {}  # lives that are out of reach, and why; they are known to `_homes`
        self._barred: Counter[Pair] = Counter()  # (process, home) -> NodeGone that it has not answered
        self._owed: Counter[Pair] = Counter()  # bytes that a local destination has, and the source was not told of
        self._due: dict[Pair, None] = {}  # pairs that are to be told

    # -- who is where ------------------------------------------------------------------------------------------------

    def on_life(self, life: bytes, home: bytes, number: int, now: float) -> None:
        """A member says whose life it is."""
        before = self._homes.on_told(life, home, number)
        if before is not None:
            self._cut.pop(before, None)
            self._emit(Sever(before))
            self._lose(home, "its peer was declared dead, and has begun anew")
        self._found(home)

    def on_cut(self, life: bytes, why: str) -> None:
        """The link to it is over, or could not be made: it is out of reach. A repeat changes nothing."""
        home = self._homes.home_of(life)
        if home is not None and self._homes.life_of(home) == life and life not in self._cut:
            self._cut[life] = why
            self._lose(home, why, placed=True)

    def on_linked(self, life: bytes, now: float) -> bytes | None:
        """A link to it stands. The home that is in reach again, if it was out of it."""
        if self._cut.pop(life, None) is None:
            return None
        home = self._homes.home_of(life)
        assert home is not None, f"a life of nobody was cut off: {life.hex()}"
        self._found(home)
        for job in self._jobs.of_host(home):  # heard of by way of others: it may be over
            self.send(peer_process(home), JobKnown(job), now)
        return home

    def on_life_over(self, life: bytes, why: str) -> None:
        """It is no member any more: dead, or it has left; or there can be no link between its life and ours."""
        home = self._homes.on_over(life)
        self._cut.pop(life, None)
        if home is not None:
            self._lose(home, why)
            if self._homes.life_of(home) is None:
                remember(self._gone, home, why, GONE_MAX)

    def on_silent(self, life: bytes, name: str, silent: bool) -> None:
        """It is suspected, or was in vain: who has dealt with that host is told, for people."""
        home = self._homes.home_of(life)
        if home is not None and self.life_of(home) == life and self.is_there(home):
            for process in sorted(self._concerned(home)):
                if process in self._locals:
                    self._emit(Send(process, NodeSilent(home, name, silent)))

    def on_own_end(self, why: str) -> None:
        """Our own life is over: for everybody else we are dead, and so they are for us."""
        self._cut.clear()
        for home in sorted({*self._homes.clear(), *self._ways}):
            self._lose(home, why)
            remember(self._gone, home, why, GONE_MAX)

    def _found(self, home: bytes) -> None:
        if not self.is_there(home):
            return
        self._gone.pop(home, None)
        way = self._ways.get(home)
        if way is not None:
            way.give_up_at = None
            self._laden[home] = None

    def is_there(self, home: bytes) -> bool:
        """Whether a member is known under this home now, and in reach."""
        life = self._homes.life_of(home)
        return life is not None and life not in self._cut

    def is_out_of_reach(self, home: bytes) -> bool:
        """Whether there is such a member, and no link to it: others may speak with it."""
        return self._homes.life_of(home) in self._cut

    def life_of(self, home: bytes) -> bytes | None:
        return self._homes.life_of(home)

    def homes(self) -> list[bytes]:
        """All hosts that are there, but ours."""
        return [home for home in self._homes.current() if self.is_there(home)]

    def dealt_with(self) -> list[bytes]:
        """Hosts that are there, and to which this one has spoken, or the other way round."""
        return sorted(home for home in self._ways if self.is_there(home))

    def why_gone(self, home: bytes) -> str:
        """Why a host is gone, or out of reach; "" while it is there, or was never known."""
        life = self._homes.life_of(home)
        return self._gone.get(home, "") if life is None else self._cut.get(life, "")

    def lives(self, process: bytes) -> bool:
        """Whether a process of another host, or another peer, is there, as far as is known."""
        home = process[:NODE_BYTES]
        if process == peer_process(home):
            return self.is_there(home)
        return process in self.foreigners

    def job_of(self, process: bytes) -> bytes:
        """The job that a process of another host serves; b"" for none, or when it has never spoken to this host."""
        return self.foreigners.job_of(process)

    def foreign_jobs(self) -> list[bytes]:
        """Jobs of other hosts that may have work done here."""
        return self._jobs.foreign()

    # -- what processes of this host say -----------------------------------------------------------------------------

    def on_relay(self, source: bytes, message: Relay, now: float) -> None:
        """A process here says something to another host."""
        destination, data = message.destination, message.data
        home = destination[:NODE_BYTES]
        if home == self.node:
            self.counters["relays to our own host"] += 1
        elif (source, home) in self._barred:
            self.counters["relays from before an end"] += 1
        elif (way := self._way(home, now)) is None:
            self._tell_gone(source, home, self._why(home))
        elif _is_too_much(way.bytes_of((source, destination)), len(data)):
            self.counters["relays beyond the window"] += 1  # the sender does not keep to the protocol
        elif self.foreigners.settles(destination):
            self.counters["messages to the dead"] += 1
            if self.foreigners.also_tell(source, destination):
                self._emit(Send(source, ProcessDied(destination)))
        else:
            self._introduce(way, source)
            self.foreigners.met(destination, source)
            way.relay((source, destination), data)
            self._laden[home] = None

    def on_dealt(self, process: bytes, home: bytes) -> None:
        """A process here has to hear of the end of that host, though it never spoke with any process there."""
        way = self._ways.get(home)
        if way is not None:
            way.dealt.add(process)

    def on_seen(self, source: bytes, message: NodeGoneSeen) -> None:
        """The process speaks of after that end from here on."""
        key = (source, message.node)
        if key in self._barred:
            self._barred[key] -= 1
            if not self._barred[key]:
                del self._barred[key]

    def tell_job(self, info: JobInfo, home: bytes, now: float, again: bool = False) -> None:
        """Our peer will ask that host to work for this job; or, `again`, that host asks for it."""
        way, there = self._way(home, now), self._there(info)
        if way is not None and there is not None and (again or info.job not in way.jobs):
            self._say_job(way, there)

    def _there(self, info: JobInfo) -> JobThere | None:
        """A job as it is to be told: as its driver's host has it; None when it is over."""
        if info.job[:NODE_BYTES] != self.node:
            return self._jobs.there(info.job)
        if not self._locals.job_lives(info.job):
            return None
        return JobThere(self._jobs.with_code(info), self._python)

    def _say_job(self, way: Way, there: JobThere) -> None:
        if there.info.job[:NODE_BYTES] != way.home:
            way.jobs.add(there.info.job)
            self._jobs.on_told(there.info.job, way.home)
            self._say(way, there)
            if self._jobs.must_ask(there.info.job):
                self._emit(Send(there.info.job, CodeWanted()))

    def _introduce(self, way: Way, process: bytes) -> None:
        if process in way.introduced:
            return
        way.introduced.add(process)
        way.dealt.add(process)
        info = self._locals.job_info(process)
        there = self._there(info) if info is not None else None
        job = there.info.job if there is not None else b""
        if there is not None and job not in way.jobs:
            self._say_job(way, there)
        self._say(way, ProcessThere(process, job))

    # -- what our own peer says --------------------------------------------------------------------------------------

    def send(self, destination: bytes, message: Message, now: float) -> bool:
        """Our peer says something to a process of another host, or its peer. False: that host is gone, or there is no
        other, and it is dropped."""
        if isinstance(message, Fetched):
            return self.send_late(destination, message, now)
        home = destination[:NODE_BYTES]
        way = self._way(home, now)
        if way is None:
            self.counters["sends to the gone"] += 1
            return False
        self._say(way, message, destination)
        self._bound(way)
        return True

    def send_late(self, reader: bytes, message: Message, now: float, to_peer: bool = False) -> bool:
        """Our peer says something that can wait: it takes turns with what processes say. In the order of its `reader`,
        a process there; `to_peer`: it is for the peer of that one, after all that was said to the reader. False: that
        host is gone, and it is dropped. Whoever calls this bounds it: no window does."""
        way = self._way(reader[:NODE_BYTES], now)
        if way is None:
            self.counters["sends to the gone"] += 1
            return False
        destination = peer_process(way.home) if to_peer else reader
        way.relay((self.process_id, reader), Parcel(destination, self.process_id, message))
        self._laden[way.home] = None
        self._bound(way)
        return True

    def _say(self, way: Way, message: Message, destination: bytes = b"") -> None:
        way.say(Parcel(destination or peer_process(way.home), self.process_id, message))
        self._laden[way.home] = None

    def _bound(self, way: Way) -> None:
        """Too much of our own peer waits there: that is the end."""
        life = self._homes.life_of(way.home)
        if way.own_count > self._config.link_kept_max_messages and life is not None:
            why = f"{way.own_count} messages wait for it: it takes them too slowly"
            self._emit(Sever(life, why, over=False))
            self.on_cut(life, why)

    def _way(self, home: bytes, now: float) -> Way | None:
        """The way to a home; None when it is gone, or nobody can be anywhere."""
        way = self._ways.get(home)
        if way is not None:
            return way
        if home in self._gone or self.is_out_of_reach(home) or not self.linked:
            return None
        way = self._ways[home] = Way(home)
        if not self.is_there(home):  # its rumour may be on its way
            way.give_up_at = now + self._config.road_patience_s
        return way

    def _why(self, home: bytes) -> str:
        return self.why_gone(home) or self._gone.get(home) or "this peer belongs to no mesh"

    # -- what is to leave --------------------------------------------------------------------------------------------

    def laden(self) -> list[bytes]:
        """Homes for which something may wait, and which are there."""
        return [home for home in self._laden if self.is_there(home)] if self._laden else []

    def next(self, home: bytes, takes: bool = True, relays: bool = True) -> Parcel | None:
        """What is to leave for this home next. `takes`: its link has room for one more message; `relays`: so little is
        on its way that what processes say leaves as well. Returns None for nothing now."""
        way = self._ways.get(home)
        if way is None:
            self._laden.pop(home, None)
            return None
        parcel = way.next_own() if takes else None
        if parcel is None and takes and relays:
            parcel = way.next_relayed()
        if not way:
            self._laden.pop(home, None)
        return parcel

    # -- what comes from other hosts ---------------------------------------------------------------------------------

    def on_arrived(self, life: bytes, letter: Letter, now: float) -> None:
        """A message that came by the stream of this life."""
        destination, source, data, blocks = letter
        home = source[:NODE_BYTES]
        if self._homes.is_over(life):
            self.counters["messages of lives that are over"] += 1
            return
        if life in self._cut:
            self.counters["messages from out of reach"] += 1
            return
        strays = destination[:NODE_BYTES] != self.node or (blocks and destination != self.process_id)
        if self._homes.life_of(home) != life or strays:  # blocks are passed on to nobody
            self.counters["messages gone astray"] += 1
            return
        of_peer = source == peer_process(home)
        if not of_peer and source not in self.foreigners:
            self.counters["messages of strangers"] += 1
            return
        way = self._way(home, now)
        assert way is not None, f"{home.hex()} is there and gone"
        if destination == self.process_id:
            self._emit(Handle(source, data, blocks))
            if not of_peer:
                self._count((source, destination), len(data))
        elif destination in self._locals:
            way.dealt.add(destination)
            self.foreigners.met(source, destination)
            self._emit(Send(destination, Relayed(source, bytes(data))))
            if not of_peer:
                self._count((source, destination), len(data))
        else:
            self.counters["messages to the dead"] += 1
            if not of_peer and not self.foreigners.has_told(peer_process(home), destination):
                self._say(way, ProcessDied(destination))
                self._say(
                    way, DeathSettled(destination)
                )  # none of them has got anything from the dead, or is waited for

    def _count(self, pair: Pair, size: int) -> None:
        self._owed[pair] += size
        if self._owed[pair] >= RELAY_WINDOW_BYTES // 2:
            self._due[pair] = None

    def repay(self, clogged: Callable[[bytes], bool]) -> None:
        """Tell senders what has reached its receivers. `clogged`: something still waits for the socket of that one."""
        if not self._due:
            return
        for pair in [pair for pair in self._due if not clogged(pair[1])]:
            source, destination = pair
            del self._due[pair]
            size = self._owed.pop(pair)
            way = self._ways.get(source[:NODE_BYTES])
            if way is not None and source in self.foreigners:
                self._say(way, RelayTaken(destination, size), source)

    # -- peers among themselves --------------------------------------------------------------------------------------

    def on_process_there(self, source: bytes, message: ProcessThere) -> None:
        process = message.process
        if self._of_its_peer(source, process):
            self.foreigners.add(process, message.job)

    def on_process_died(self, source: bytes, message: ProcessDied) -> None:
        """A process of the sender's host is gone."""
        process = message.process
        if not self._of_its_peer(source, process) or self.foreigners.settles(process):
            return
        witnesses = {each for each in self.foreigners.who_met(process) if each in self._locals}
        self._forget_pairs(process)
        if (way := self._ways.get(process[:NODE_BYTES])) is not None:
            way.drop(process)
        if self.foreigners.on_died(process, witnesses):
            self._emit(ForeignDied(process))
        for witness in sorted(witnesses):
            self._emit(Send(witness, ProcessDied(process)))
        if not witnesses:
            self._answer_for(process)

    def on_death_seen(self, witness: bytes, process: bytes) -> None:
        """A process here has accounted for what a dead one of another host had said to it."""
        if self.foreigners.on_answer(witness, process):
            self._answer_for(process)

    def _answer_for(self, process: bytes) -> None:
        if process[:NODE_BYTES] in self._ways:
            self._emit(ForeignSeen(process))

    def on_death_settled(self, source: bytes, message: DeathSettled) -> None:
        """Everybody has accounted for what a dead process of the sender's host had said."""
        if self._of_its_peer(source, message.process):
            for witness in self.foreigners.on_settled(message.process):
                if witness in self._locals:
                    self._emit(Send(witness, DeathSettled(message.process)))

    def _of_its_peer(self, source: bytes, process: bytes) -> bool:
        home = source[:NODE_BYTES]
        if source == peer_process(home) and process[:NODE_BYTES] == home and process != source:
            return True
        self.counters["messages out of place"] += 1
        return False

    # -- ends on this host -------------------------------------------------------------------------------------------

    def on_local_died(self, process: bytes) -> frozenset[bytes]:
        """A process of this host is gone. The peers (their process ids) that have to account for it."""
        told = []
        for home, way in self._ways.items():
            if process in way.dealt:
                parcel = Parcel(peer_process(home), self.process_id, ProcessDied(process))
                way.farewell(process, parcel)
                self._laden[home] = None
                told.append(peer_process(home))
        for key in [key for key in self._barred if key[0] == process]:
            del self._barred[key]
        self._forget_pairs(process)
        self._jobs.forget_awaited(process)
        self.foreigners.on_local_died(process, told)
        return frozenset(told)

    def on_local_settled(self, process: bytes) -> None:
        """The death of a process of this host is settled: everybody has accounted for what it had said."""
        for peer in self.foreigners.on_local_settled(process):
            way = self._ways.get(peer[:NODE_BYTES])
            if way is not None:
                self._say(way, DeathSettled(process))
        for foreigner in self.foreigners.settled_witness(process):
            self._answer_for(foreigner)

    def _forget_pairs(self, process: bytes) -> None:
        for pair in [pair for pair in self._owed if process in pair]:
            del self._owed[pair]
            self._due.pop(pair, None)

    # -- jobs --------------------------------------------------------------------------------------------------------

    def on_job_there(self, source: bytes, message: JobThere, now: float) -> None:
        """A job that processes of the sender's host serve."""
        home, job = source[:NODE_BYTES], message.info.job
        way = self._ways.get(home)
        if way is None or source != peer_process(home):
            self.counters["messages out of place"] += 1
            return
        way.jobs.add(job)
        known = job in self._jobs
        if not self._jobs.on_there(message):
            return
        self._emit(JobCame(message.info, message.python))
        if known:
            return
        origin = job[:NODE_BYTES]
        if origin != home:
            if self.is_out_of_reach(origin):
                pass  # asked once it is in reach
            elif self._way(origin, now) is None:
                self._end_job(job, self._why(origin))
            else:
                self.send(peer_process(origin), JobKnown(job), now)

    def on_job_known(self, source: bytes, message: JobKnown) -> None:
        """The sender knows a job of a driver of this host."""
        way = self._ways.get(source[:NODE_BYTES])
        if way is None:
            return
        if self._locals.job_lives(message.job):
            self._jobs.on_told(message.job, way.home)
            info = self._locals.job_info(message.job)
            there = self._there(info) if info is not None else None
            if there is not None and there.info.code is not None:  # whoever told of the job may not have known it
                self._say(way, there)
        else:
            self._say(way, JobOver(message.job))

    def on_code_ready(self, source: bytes, message: CodeReady) -> None:
        """A driver of this host says what of its program goes to others."""
        info = self._locals.job_info(source)
        if info is None or info.job != source:
            self.counters["messages out of place"] += 1
            return
        for home in self._jobs.on_code(source, message.code):
            way = self._ways.get(home)
            if way is not None:
                self._say(way, JobThere(self._jobs.with_code(info), self._python))

    def on_job_over(self, source: bytes, message: JobOver) -> None:
        """A job of the sender's host has ended."""
        home = message.job[:NODE_BYTES]
        way = self._ways.get(home)
        if way is None or source != peer_process(home):
            return
        if message.job in self._jobs or self._jobs.is_ending(message.job):
            self._end_job(message.job, "its job ended")
        else:
            self._say(way, JobDone(message.job))

    def on_job_done(self, source: bytes, message: JobDone) -> None:
        """Nothing of an ended job of a driver of ours runs at the sender's host any more."""
        if source == peer_process(source[:NODE_BYTES]):
            self._jobs.on_done(message.job, source[:NODE_BYTES])

    def awaits_end(self, job: bytes) -> bool:
        """Whether something of an ended job of ours may still run at another host."""
        return self._jobs.awaits(job)

    def on_foreign_job_ended(self, job: bytes, now: float) -> None:
        """Nothing of a job that is over (`JobGone`) runs here any more: its driver's peer hears that, behind all that
        was said to the driver."""
        self._jobs.on_ended(job)
        if self.is_there(job[:NODE_BYTES]):
            self.send_late(job, JobDone(job), now, to_peer=True)

    def hears(self, job: bytes) -> bool:
        """Whether the driver of a foreign job can be told what its workers here print."""
        return job in self._jobs or self._jobs.is_ending(job)

    def on_local_job_over(self, job: bytes) -> None:
        """A job of a driver of this host has ended: all who know it are told."""
        for home in self._jobs.take_told(job):
            way = self._ways.get(home)
            if way is not None:
                self._say(way, JobOver(job))
        self._forget_job(job)

    def _end_job(self, job: bytes, reason: str) -> None:
        if self._jobs.on_over(job):
            self._emit(JobGone(job, reason))
        self._forget_job(job)

    def _forget_job(self, job: bytes) -> None:
        for way in self._ways.values():
            way.jobs.discard(job)

    # -- a host is gone ----------------------------------------------------------------------------------------------

    def _lose(self, home: bytes, why: str, placed: bool = False) -> None:
        """All that was between that host and this one is over. `placed`: something may be about to be placed there, so
        it is told also where nothing was between them."""
        concerned = self._concerned(home)
        way = self._ways.pop(home, None)
        self._laden.pop(home, None)
        for process in sorted(concerned):
            self._tell_gone(process, home, why)
        for pair in [pair for pair in self._owed if pair[0][:NODE_BYTES] == home]:
            del self._owed[pair]
            self._due.pop(pair, None)
        self.foreigners.on_host_gone(home)
        if way is not None or placed:
            self._emit(HostGone(home, why))
        self._jobs.forget_host(home)
        for job in self._jobs.of_host(home):
            self._end_job(job, why)

    def _concerned(self, home: bytes) -> set[bytes]:
        """Who has to do with that host, as far as is known; living or not."""
        way, met = self._ways.get(home), self.foreigners.who_met_any(home)
        return met if way is None else met | way.dealt | way.sources()

    def _tell_gone(self, process: bytes, home: bytes, why: str) -> None:
        if process in self._locals:
            self._barred[process, home] += 1
            self._emit(Send(process, NodeGone(home, why)))

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `tick` is due; None: never."""
        found: float | None = None
        for way in self._ways.values():
            found = earliest(found, way.give_up_at)
        return found

    def tick(self, now: float) -> None:
        """Hosts of which no rumour has come by now are given up."""
        for way in list(self._ways.values()):
            if way.give_up_at is not None and way.give_up_at <= now:
                why = "no member is known under its id"
                self._lose(way.home, why)
                remember(self._gone, way.home, why, GONE_MAX)

    def _emit(self, effect: object) -> None:
        self._effects.append(effect)


def _is_too_much(waits: int, size: int) -> bool:
    """Whether a sender that keeps to its window would not have sent this on top of what waits."""
    return waits > RELAY_WINDOW_BYTES // 2 and waits + size > RELAY_WINDOW_BYTES
