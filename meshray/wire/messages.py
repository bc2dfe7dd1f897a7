"""The protocol: every message that crosses a process boundary, in one place.

A connection names both of its processes once, then carries messages. A process id is drawn anew at every start, so it
carries the incarnation, and what is for another one is refused. Control messages are never pickles; user values are
opaque `bytes` that the peer passes on unread.

Who speaks to whom (S submitter: a driver or a worker that submits; W worker; P peer; D driver; A any process)::

    D,W -> P   Attach                 P -> D,W   Attached, Bind
    S   -> P   Demand, LeaseReturned  P -> S     LeaseGranted, LeaseWanted, LeaseRevoked,
                                                   LeaseLost, Infeasible, AskAlso
    S   -> W   Push, PlainPush, Cancel
    W   -> S   Results, PlainResults, GivenBack, CarrierDone
    S   -> P   Retried                W -> P     Orphans, OrphanDone    (adoption: core/adoption.py)
    W   -> P   Blocked, Unblocked, ActorReady, ActorExit
    A   -> P   Promote, Resolve, Hold, Release, Fetch, Forget, DeathSeen
    P   -> A   HoldDone, Fetched, ProcessDied, DeathSettled, SegmentsFree
    A   -> P   Sealed, Pooled, PoolTrimmed, CreditRequest  P -> A     CreditGranted, TrimPool
    A   -> P   Bring, Unused, Lodged  P -> A     Brought
    P   -> P'  Hold, Release, Fetch, Forget, Lodged, ProcessDied, DeathSettled, and back HoldDone, Fetched, DeathSeen
    P   -> P'  Seek, Pull, Whole, CopiesGone, Keep     P' -> P    Found, Piece, NoPiece, Expired, Kept
    S   -> P   CreateActor, WatchActor, KillActor, FindActor      P -> S  ActorState, ActorFound
    P   -> P   HostActor, ActorHosted, ActorWaitsThere, LeaveActor, KillGuest, GuestReady, GuestExit, GuestLost,
                 FenceRenew, FenceRenewed, ActorNews, UnwatchActor, NameClaim, NameAnswer, NamesHeld, NameFreed,
                 Will, WillOver, Inherit, Inherited, GuestMoves, GuestMoved, ActorsMoved, WillsHeld,
                 ProgramWanted, Program, ProgramHeld
    A   -> P   Ask                    P -> A     Answer
    P   -> D   LogLines, CodeWanted   D -> P     LogsShown, Detach, CodeReady    P -> W  Exit
    A   -> P   Relay, NodeGoneSeen    P -> A     Relayed, RelayTaken, NodeGone, NodeSilent
    P   -> P'  LoadNow, PeerLeaves, JobWanted, ProcessThere, JobThere, JobKnown, JobOver, JobDone, ProcessDied,
                 DeathSeen, DeathSettled

Processes of different hosts say the same to each other, by way of their peers: a Relay to the own one, an envelope on
the link to the other (`wire.envelopes`), a Relayed from there. P' is the peer of another host (core/road.py).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from meshray.ids import TASK_BYTES
from meshray.strategy import ANYWHERE, Strategy

# -- bounded pieces ----------------------------------------------------------------------------------------------------

ProcessId = Annotated[bytes, Meta(min_length=16, max_length=16)]
NodeId = Annotated[bytes, Meta(min_length=8, max_length=8)]
TaskId = Annotated[bytes, Meta(min_length=24, max_length=24)]
ObjectId = Annotated[bytes, Meta(min_length=28, max_length=28)]
FunctionHash = Annotated[bytes, Meta(min_length=16, max_length=16)]
Text = Annotated[str, Meta(max_length=64 * 1024)]
Name = Annotated[str, Meta(max_length=1024)]
Count = Annotated[int, Meta(ge=0, le=2**62)]
Amounts = dict[Name, Count]
Request = dict[Name, Annotated[int, Meta(ge=1, le=2**62)]]
"""What is asked for: nothing of a resource is no entry (`resources.Amounts`)."""

Near = Annotated[dict[NodeId, Count], Meta(max_length=16)]
"""Bytes by home node."""

Hops = Annotated[int, Meta(ge=0, le=64)]


class Place(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Where a large value lies: one sealed segment of one host's store."""

    object_id: ObjectId
    node: NodeId
    segment: Name  # the file's name in the node's store folder: a single path component
    size: Count  # bytes of the whole payload, from offset 0 of the segment


class Failure(Struct, frozen=True, array_like=True, tag=2):
    """Why there is no value. Made without pickle, so a peer can make one too; `errors.from_failure` raises it."""

    kind: Name  # the name of a class of `meshray.errors`
    message: Text
    traceback: str = ""  # the remote traceback, for TaskError
    cause: bytes = b""  # the pickled exception, where it could be pickled
    details: dict[Name, Text] = {}  # what the class of `kind` shows: task name, pid, host, ...


class Borrowed(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """A reference to resolve at the executor: the argument of an actor's constructor, or of an adopted task."""

    object_id: ObjectId


Value = bytes | Place | Failure
"""A result: an inline payload, the place of a large one, or the reason why there is none."""

Argument = bytes | Place | Borrowed


class Task(Struct, array_like=True, gc=False):
    """One attempt of one task, or one call of an actor's method."""

    seq: int  # counts up per lease; per (caller, actor incarnation) for calls of actors
    task_id: bytes
    function: bytes  # hash of the pickled function; the method's name for calls of actors
    args: bytes | Place  # payload of (args, kwargs); b"" when there are none
    deps: list[bytes | Place | Borrowed] = []  # values of the references that stood at the top level of the arguments
    returns: int = 1
    attempt: int = 0
    nested: bool = False  # references stand inside the arguments: answer with CarrierDone when none is needed any more
    depth: int = 0  # 0 for a driver's task, 1 for a task submitted by it, ...
    name: str = ""  # for people; "" means the function's own
    retry_exceptions: bool = False  # report an exception's type for a decision about retrying


class Result(Struct, array_like=True, gc=False):
    """The outcome of one attempt."""

    seq: int
    values: list[bytes | Place | Failure]  # one per return; a single Failure stands for all of them
    contained: list[list[bytes]] = []  # per return, the ids of the references inside; [] when there are none at all
    kept: bool = False  # references or views of the arguments live on in the worker: a CarrierDone will follow
    lost: tuple[
        Place, ...
    ] = ()  # arguments that cannot be had any more: nothing of it has run. `values` is why, of the first


class Blob(Struct, frozen=True, array_like=True):
    """A pickled function or class, named by its hash."""

    hash: FunctionHash
    name: Name
    pickled: bytes


class Profile(Struct, frozen=True, array_like=True):
    """What a worker must be like; one worker never changes it. Part of a scheduling class."""

    gpus: bool = False  # a worker for GPU work: its devices are set before user code is imported
    threads: int = 1  # BLAS threads: max(1, num_cpus)
    env_vars: dict[Name, Text] = {}
    actor: bool = False  # a dedicated worker


class Code(Struct, frozen=True, array_like=True):
    """The program's own folder, for hosts that do not have it. Its driver keeps the object until the job ends."""

    hash: Annotated[bytes, Meta(max_length=64)] = b""  # of the archive; b"": nothing goes along, the driver said why
    object_id: bytes = b""  # whose value is the archive (`runtime.bundle.archive`)
    size: Count = 0  # bytes of the archive
    roots: Annotated[list[Text], Meta(max_length=4)] = []  # the folder at the driver's host, by each of its names
    interpreter: list[Text] = []  # entries of `sys_path` that come with the interpreter: each host has its own
    left_out: Text = ""  # what of the folder does not go along, for people; "" when all does


class JobInfo(Struct, frozen=True, array_like=True):
    """What a worker needs in order to see the code that its driver sees."""

    job: ProcessId
    executable: Text
    prefix: Text
    sys_path: list[Text]
    folder: Text  # the working directory
    main_path: Text  # the path of the script, "" for a REPL or a notebook
    namespace: Name
    log_to_driver: bool = True
    env_vars: dict[Name, Text] = {}
    code: Code | None = None  # for workers of other hosts, which wait for it; None while it is not known


# -- attaching ---------------------------------------------------------------------------------------------------------


class Attach(Struct, array_like=True, tag=10):
    """D, W -> P: first message of a process. A repeat is answered again and changes nothing."""

    protocol: int
    pid: int
    python: Name  # "3.11"
    job: JobInfo | None = None  # None for a worker
    observer: bool = False  # a command line tool: asks questions, runs nothing


class Attached(Struct, array_like=True, tag=11):
    """P -> D, W: welcome, or why not."""

    pid: int = 0
    node_name: Name = ""
    store_folder: Text = ""
    config: bytes = b""  # msgpack of Config
    refused: Text = ""
    alone: bool = False  # the peer is off the network: there are no other hosts, and never will be


class Bind(Struct, array_like=True, tag=12):
    """P -> W: the job that this worker serves for the rest of its life. Sent once, before its first task."""

    job: JobInfo
    env: dict[Name, Text]  # CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS, the runtime_env's env_vars
    gpu_ids: list[int] = []
    resources: Amounts = {}


class Detach(Struct, array_like=True, tag=13):
    """D -> P: the job ends. Answered by Answer(request) after the last log lines were sent. An observer says it,
    too, and is not answered."""

    request: int


class Exit(Struct, array_like=True, tag=14):
    """P -> W: end. A worker that does not is killed."""

    reason: Text = ""


class CodeWanted(Struct, array_like=True, tag=150):
    """P -> D: another host has heard of the job: what of the program shall its workers have? Answered with CodeReady,
    in time and once; a repeat is answered again."""

    lasting: bool = False  # a detached actor needs it when the program has ended: it shall not end before it answers


class CodeReady(Struct, array_like=True, tag=151):
    """D -> P: this. Its object was promoted before. The first one counts."""

    code: Code


class PeerStops(Struct, array_like=True, tag=15):
    """P -> D: this peer was told to end, and does so now; its death follows. A repeat changes nothing."""

    reason: Text = ""  # in a few words, for people


# -- leases ------------------------------------------------------------------------------------------------------------


class Demand(Struct, array_like=True, tag=20):
    """S -> P: how many leases of a class this submitter could use of this peer now, in all. Absolute, so a repeat is
    harmless. Said to its own peer, and to those that AskAlso names."""

    class_id: int  # the submitter's own number of the class
    count: int
    request: Request = {}  # what one lease takes
    profile: Profile = Profile()
    depth: int = 0
    name: Name = ""  # a function of the class, for messages to people
    strategy: Strategy = ANYWHERE
    near: Near = {}  # where the large arguments of one of these tasks lie
    job: bytes = b""  # for whom; the receiver knows by itself for its own processes
    hops: Hops = 0  # how many AskAlso have led here


class AskAlso(Struct, array_like=True, tag=140):
    """P -> S: this peer cannot give all that was asked for now; that one may give so many more. A hint: whoever has
    nothing left to run ignores it, and only a peer grants its own slots. A repeat asks again."""

    class_id: int
    peer: ProcessId
    count: int
    hops: Hops  # what the Demand there says


class LoadNow(Struct, array_like=True, tag=100):
    """P -> P (a submitter's): a demand could not be met at once; so much is in use here (all of it
    when there was no room to note the demand). Once more when there is room for the like. A repeat changes nothing."""

    used: Amounts


class PeerLeaves(Struct, array_like=True, tag=102):
    """P -> P': the sender is being stopped. It grants nothing more, what waits for it there should go elsewhere, and it
    is gone within a bound, with a goodbye. Never taken back; a repeat changes nothing."""


class JobWanted(Struct, array_like=True, tag=101):
    """P -> P (a submitter's): a demand came for a job that is not known here, or no more since its driver's host was
    out of sight. Answered with JobThere if it lives; the demand is repeated sooner or later. P -> O: so did a detached
    actor; if its job is over, or not known there either, that is answered with Program. A repeat is answered again."""

    job: ProcessId


class LeaseGranted(Struct, array_like=True, tag=21):
    """P -> S: `worker` runs this submitter's tasks of the class until the lease is returned, revoked or lost."""

    lease: int
    class_id: int
    worker: ProcessId
    gpu_ids: list[int] = []


class LeaseReturned(Struct, array_like=True, tag=22):
    """S -> P: nothing of it is in flight any more. Unknown leases are ignored."""

    leases: list[int]


class LeaseRevoked(Struct, array_like=True, tag=23):
    """P -> S: somebody else waits and the quantum is over: push no more, return it when what is in flight is done."""

    lease: int


class LeaseWanted(Struct, array_like=True, tag=28):
    """P -> S: somebody waits for what this lease holds: return it soon after there is nothing for it to do, without the
    usual pause. A repeat changes nothing."""

    lease: int


class LeaseLost(Struct, array_like=True, tag=24):
    """P -> S: the worker died. From its journal: what had finished, and what had been started."""

    lease: int
    worker: ProcessId
    finished: list[Result]
    started: list[int]  # sequence numbers of attempts that had begun and not finished: these are charged
    failure: Failure  # WorkerCrashedError with signal or exit code and the last lines of stderr
    all_started: bool = False  # the journal could not name all that had begun: whatever is not finished counts as begun
    left: bool = False  # its host leaves, and has ended it for that: what may be tried again is not charged


class Infeasible(Struct, array_like=True, tag=25):
    """P -> S: no member can ever meet this class; "" when that has changed."""

    class_id: int
    message: Text
    hopeless: bool = False  # nor will one ever join that could: what waits fails with TaskUnschedulableError


class Blocked(Struct, array_like=True, tag=26):
    """W -> P: the worker waits in `get` or `wait`: its CPUs are free for others. Idempotent by `since`."""

    since: int  # a counter of the worker, so that Blocked and Unblocked of different waits never mix


class Unblocked(Struct, array_like=True, tag=27):
    """W -> P: it runs again, at once; its CPUs are a debt until some are free."""

    since: int


# -- running -----------------------------------------------------------------------------------------------------------


class Push(Struct, array_like=True, tag=30):
    """S -> W: run these in order. `acknowledged`: all results up to this sequence number have arrived."""

    lease: int  # a lease of the peer; 0 for calls of an actor
    acknowledged: int
    tasks: list[Task]
    blobs: list[Blob] = []  # functions this worker has not from this submitter
    forget: list[FunctionHash] = []  # those that the submitter will send again before it names them; none is in flight


class PlainPush(Struct, array_like=True, tag=39):
    """S -> W: as Push, for a run of plain attempts, column by column: the first ones of tasks of one function, or calls
    of one method, with one return, nothing but an inline payload for arguments, and nothing else to say."""

    lease: int
    acknowledged: int
    seq: int  # of the first one; they count up by one
    function: bytes
    task_ids: bytes  # one after the other
    args: list[bytes]  # one each; [] when none has any
    blobs: list[Blob] = []
    forget: list[FunctionHash] = []

    def __post_init__(self) -> None:
        """Raises `ValueError` for columns of different lengths."""
        count, rest = divmod(len(self.task_ids), TASK_BYTES)
        if rest or (self.args and len(self.args) != count):
            raise ValueError(f"{len(self.task_ids)} bytes of task ids, and arguments of {len(self.args)} tasks")


class Results(Struct, array_like=True, tag=31):
    """W -> S: outcomes, in order of completion."""

    lease: int
    results: list[Result]
    busy_ns: int = 0  # time spent running these, for the mean that sets the depth


class PlainResults(Struct, array_like=True, tag=29):
    """W -> S: as Results, for a run of attempts of which each has one inline value and nothing else to say."""

    lease: int
    seq: int  # of the first one; they count up by one
    values: list[bytes]
    busy_ns: int = 0


class GivenBack(Struct, array_like=True, tag=32):
    """W -> S: these were not started and will not be: submit them elsewhere."""

    lease: int
    seqs: list[int]


class Cancel(Struct, array_like=True, tag=33):
    """S -> W: cancel one attempt, and with `recursive` what it submitted. Unknown or finished: no effect."""

    task_id: TaskId
    attempt: int
    recursive: bool


class CarrierDone(Struct, array_like=True, tag=34):
    """A -> A: the receiver of references (in a task's arguments or in a result) is known to the owner's peer as their
    holder, or has let go of them: the sender's pin may end. Unknown ids are ignored."""

    carriers: list[TaskId]


class KillWorker(Struct, array_like=True, tag=35):
    """S -> P: kill the worker of this lease, if it still runs that attempt (`cancel(force=True)`)."""

    lease: int
    seq: int


class Orphan(Struct, array_like=True):
    """One attempt of a task whose submitter is dead, as its executor knows it."""

    task_id: TaskId
    attempt: int
    lease: int = 0
    seq: int = 0
    result: Result | None = None


class Orphans(Struct, array_like=True, tag=36):
    """W -> P, before its DeathSeen: what the sender had of a dead submitter. What is not named here has not begun here
    and never will. A repeat changes nothing."""

    submitter: ProcessId
    finished: list[Orphan]  # with results; the submitter may not have got them
    running: list[Orphan]  # each is followed by one OrphanDone, or by the sender's death
    begun: list[Orphan]  # begun at some time before, and over: their results are not here any more


class OrphanDone(Struct, array_like=True, tag=37):
    """W -> P: an attempt that Orphans called running is over. Answered with CarrierDone if references are inside."""

    submitter: ProcessId
    orphan: Orphan


class Retried(Struct, array_like=True, tag=38):
    """S -> P: a task whose lineage the peer has is tried again. Older attempts than the newest known are ignored."""

    task_id: TaskId
    attempt: int
    retries_left: int


# -- objects -----------------------------------------------------------------------------------------------------------


class Lineage(Struct, frozen=True, array_like=True):
    """What can make a task again when its submitter is gone. Never for calls of actors."""

    task_id: TaskId
    function: FunctionHash
    blob: Blob | None  # of a function that the peer has not from the sender
    args: bytes | Place
    deps: list[bytes | Place | Borrowed]  # Borrowed: what is not ready yet, large, or has references inside
    pins: list[ObjectId]  # references inside `args` or borrowed in `deps`, and the place of `args`
    returns: int
    attempt: int  # the newest one begun or about to begin
    retries_left: int  # after that attempt; -1: always
    retry_exceptions: bool | list[Name]
    nested: bool
    request: Request
    profile: Profile
    depth: int
    name: Name
    strategy: Strategy = ANYWHERE
    forget: list[FunctionHash] = []  # functions that the sender will send again before it names them


class Promoted(Struct, array_like=True):
    """A record on its way from a process to its peer."""

    object_id: ObjectId
    value: bytes | Place | Failure | None  # None: pending, the sender will Resolve it
    contained: list[ObjectId] = []
    lineage: Lineage | None = None  # of a pending one; one per task, with the first of its returns that is promoted
    evicted: bool = False  # its lineage was too much: if the sender dies, so does this
    copied: bool = False  # the value could be had after all, the owner's host has a copy now (see Remake)


class Promote(Struct, array_like=True, tag=40):
    """A -> P: the peer answers for these from now on; the sender stays a holder. A repeat changes nothing."""

    records: list[Promoted]


class Resolve(Struct, array_like=True, tag=41):
    """A -> P: values of promoted records that were pending. The first one counts."""

    records: list[Promoted]


class Hold(Struct, array_like=True, tag=42):
    """A -> P: the sender holds these. Answered with HoldDone(token)."""

    token: int
    object_ids: list[ObjectId]


class HoldDone(Struct, array_like=True, tag=43):
    """P -> A: the peer knows."""

    token: int


class Release(Struct, array_like=True, tag=44):
    """A -> P: the sender holds these no more: no handle, no view, no pin."""

    object_ids: list[ObjectId]


class Fetch(Struct, array_like=True, tag=45):
    """A -> P: tell me the values when they are there. The peer answers each once, in any order."""

    object_ids: list[ObjectId]


class Refetch(Struct, array_like=True, tag=134):
    """A -> P, P -> P', the peer of the owner: these cannot be had any more, and the sender needs the values. Answered
    like Fetch, with other places or values, or with the reason why there will be none."""

    places: list[Place]


class Remake(Struct, array_like=True, tag=135):
    """P -> A, the owner of these: somebody needs them, and they are lost. Answered with Resolve, or with Promote for
    what was not promoted: another value; the same place, `copied`, when the owner's peer has a copy now; or the same
    place when nothing can make another. A repeat is answered again."""

    places: list[Place]


class OutOfScope(Struct, array_like=True, tag=136):
    """P -> A, the owner of these: nobody holds them any more, so they need not be made again. A repeat changes
    nothing."""

    object_ids: list[ObjectId]


class Lodged(Struct, array_like=True, tag=120):
    """P -> P', the peer of the owner: segments that hold your objects lie here. Before whatever tells of their places.
    They stay until you Release them. Or P' -> P: you may not have heard of these, or were away; I hold them. A repeat
    changes nothing."""

    places: list[Place]


class Fetched(Struct, array_like=True, tag=46):
    """P -> A: values that were asked for."""

    records: list[Promoted]


class Forget(Struct, array_like=True, tag=47):
    """A -> P: nobody here waits for these any more."""

    object_ids: list[ObjectId]


class ProcessDied(Struct, array_like=True, tag=48):
    """P -> A, P -> P': a process is gone. Answered with DeathSeen after everything it had sent was handled."""

    process: ProcessId


class DeathSeen(Struct, array_like=True, tag=49):
    """A -> P: everything that the dead process had sent here is accounted for; its pins may go. What arrives from it
    after this was said is refused. Between peers: the same for all processes of the sender's host."""

    process: ProcessId
    others: bool = False  # between peers: deaths of the sender's own are not settled, they may have passed things on


class DeathSettled(Struct, array_like=True, tag=56):
    """P -> A, P -> P': everybody has accounted for what the dead process had sent. Only now may pins end that were kept
    for it as a receiver: until here it may have passed those references on."""

    process: ProcessId


# -- store -------------------------------------------------------------------------------------------------------------


class SealedSegment(Struct, array_like=True):
    """A segment with a value in it."""

    object_id: ObjectId
    segment: Name
    size: Count  # bytes of the payload
    capacity: Count  # bytes of the file, as accounted
    maker: bytes = b""  # the process that wrote it, when another one tells of it (its own word was lost with it)


class Sealed(Struct, array_like=True, tag=50):
    """A -> P: segments that were written, within the sender's credit."""

    segments: list[SealedSegment]


class CreditRequest(Struct, array_like=True, tag=51):
    """A -> P: the sender needs room for `size` more bytes. Answered with CreditGranted, at once or when there is
    room."""

    request: int
    size: Count


class CreditGranted(Struct, array_like=True, tag=52):
    """P -> A: `size` more bytes may be written; 0 with the reason when there is no room within the waiting time."""

    request: int
    size: Count
    failure: Failure | None = None


class SegmentsFree(Struct, array_like=True, tag=53):
    """P -> A (the creator): nobody uses these any more: write into them again or unlink them. Not `again`: unlink them,
    for some of them is on its way to another host yet."""

    segments: list[Name]
    again: bool = True


class PoolTrimmed(Struct, array_like=True, tag=54):
    """A -> P: so many bytes of the sender's room went back: unlinked pool segments and unused credit."""

    size: Count


class Pooled(Struct, array_like=True, tag=57):
    """A -> P: objects of the sender's own that never left it are gone; their files are in its pool, to be written
    again. Said before the next Sealed of such a file."""

    object_ids: list[ObjectId]


class TrimPool(Struct, array_like=True, tag=55):
    """P -> A: the store is full: give back pool and unused credit now."""


# -- copies of values that lie on other hosts --------------------------------------------------------------------------

PIECE_MAX_BYTES = 4 << 20
"""A bound on one piece of a value on its way between hosts."""

BLOCKS_MAX = 16
"""A bound on the frames behind a message, in which the data of a piece travels (`wire.peers.Blocks`)."""


class Bring(Struct, array_like=True, tag=121):
    """A -> P: I need this value of another host here. Answered with Brought, once."""

    request: int
    place: Place


class Brought(Struct, array_like=True, tag=122):
    """P -> A: the copy of this host, or why there is none. The receiver uses it until it says Unused."""

    request: int
    place: Place | None = None
    failure: Failure | None = None


class Unused(Struct, array_like=True, tag=123):
    """A -> P: no view of these copies lives here any more. Unknown ones are ignored."""

    segments: list[Name]


class Seek(Struct, array_like=True, tag=124):
    """P -> P', the peer of the owner: I am about to have a copy of this; who else has one? Answered with Found. A
    repeat is answered again; the sender is known as a holder of a copy from the first one on."""

    place: Place


class Found(Struct, array_like=True, tag=125):
    """P' -> P: who has it, the best one first; nobody: the object is gone."""

    place: Place
    peers: list[ProcessId]


class Pull(Struct, array_like=True, tag=126):
    """P -> P': send me these bytes of a value. Answered with Piece or NoPiece, in order of the Pulls for one value."""

    place: Place  # where it was made, wherever the receiver has its copy
    offset: Count
    size: Annotated[int, Meta(ge=1, le=PIECE_MAX_BYTES)]


class Piece(Struct, array_like=True, tag=127, gc=False):
    """P' -> P: some bytes of a value. What nobody waits for is dropped."""

    place: Place
    offset: Count
    data: Annotated[list[memoryview], Meta(max_length=BLOCKS_MAX)]  # one after the other. None on the wire, where they
    # are the blocks behind the message (`wire.peers.Blocks`)


class NoPiece(Struct, array_like=True, tag=128):
    """P' -> P: that value is not here, or not any more: nothing of it will come."""

    place: Place


class Whole(Struct, array_like=True, tag=131):
    """P -> P', the peer of the owner: the sender's copies of these are whole. A repeat changes nothing."""

    places: list[Place]


class CopiesGone(Struct, array_like=True, tag=129):
    """P -> P', the peer of the owner: the sender has no copies of these any more. A repeat changes nothing."""

    places: list[Place]


class Keep(Struct, array_like=True, tag=132):
    """P -> P': the sender leaves, and values of other hosts lie there. Have copies of these, and keep them until their
    objects are gone. Said to the peer of their owner first. Answered with Kept. A repeat is answered again."""

    places: Annotated[list[Place], Meta(max_length=1024)]


class Kept(Struct, array_like=True, tag=133):
    """P' -> P: these are kept, or needed no more; of those that are `missing` there is no copy here (no room, say)."""

    places: Annotated[list[Place], Meta(max_length=1024)]
    missing: bool = False


class Expired(Struct, array_like=True, tag=130):
    """P' -> P: these objects are gone, so copies of them are of no use. A repeat changes nothing."""

    object_ids: list[ObjectId]


# -- actors ------------------------------------------------------------------------------------------------------------


class CreateActor(Struct, array_like=True, tag=60):
    """S -> P: create an actor that this peer owns. A repeat is ignored (by actor_id)."""

    actor_id: TaskId
    blob: Blob
    args: bytes | Place
    deps: list[bytes | Place | Borrowed]
    request: Request  # while it is placed
    running_request: Request  # while it lives
    profile: Profile
    max_restarts: int
    max_concurrency: int  # 0: the default, 1 for sync classes, 1000 for those with async methods
    max_task_retries: int
    job: ProcessId
    methods: bytes  # opaque to the peer: what a handle needs to know of the class
    name: Name = ""
    namespace: Name = ""
    detached: bool = False
    get_if_exists: bool = False
    request_id: int = 0  # for a named one: answered with ActorFound
    contained: list[ObjectId] = []  # references inside `args`: the peer keeps them while the actor may start again
    strategy: Strategy = ANYWHERE


class StartActor(Struct, array_like=True, tag=61):
    """P -> W: run `__init__`. Answered with ActorReady."""

    actor_id: TaskId
    incarnation: int
    blob: Blob
    args: bytes | Place
    deps: list[bytes | Place | Borrowed]
    max_concurrency: int
    name: Name = ""
    namespace: Name = ""
    methods: bytes = b""  # as in CreateActor: an actor can make handles to itself


class ActorReady(Struct, array_like=True, tag=62):
    """W -> P: `__init__` returned, or failed."""

    actor_id: TaskId
    incarnation: int
    failure: Failure | None = None


class ActorExit(Struct, array_like=True, tag=63):
    """W -> P: the actor ends itself (`exit_actor`, `__ray_terminate__`): no restart."""

    actor_id: TaskId
    incarnation: int


class WatchActor(Struct, array_like=True, tag=64):
    """S -> P: tell me where this actor lives, now and whenever it changes."""

    actor_id: TaskId


class ActorState(Struct, array_like=True, tag=65):
    """P -> S: where the actor lives. `worker` b"" while it is not there; `failure` set once it never will be."""

    actor_id: TaskId
    incarnation: int
    worker: bytes = b""
    failure: Failure | None = None
    finished: list[Result] = []  # from the journal of the incarnation that died, this submitter's calls
    started: list[int] = []
    all_started: bool = False  # as in LeaseLost


class KillActor(Struct, array_like=True, tag=66):
    """S -> P: kill it now."""

    actor_id: TaskId
    no_restart: bool


class FindActor(Struct, array_like=True, tag=67):
    """S -> P: the actor of this name. Answered with ActorFound."""

    request: int
    name: Name
    namespace: Name


class ActorFound(Struct, array_like=True, tag=68):
    """P -> S: the actor of a name, or `failure`. The sender of FindActor is a holder of it from then on."""

    request: int
    actor_id: bytes = b""
    methods: bytes = b""
    created: bool = False  # by this very request (CreateActor with a name)
    failure: Failure | None = None


# -- actors of other hosts ---------------------------------------------------------------------------------------------
#
# O: the peer that owns an actor, H: the peer of the host where it lives, C: the peer of a host where it is called.


class HostActor(Struct, array_like=True, tag=160):
    """O -> H: a dedicated worker for this incarnation of an actor of mine, please. Answered with ActorHosted, when
    there is one; taken back by LeaveActor. After a JobThere of its job, or else with JobWanted first. A repeat changes
    nothing."""

    actor_id: TaskId
    incarnation: Count
    job: ProcessId
    request: Request  # while it is placed
    running_request: Request  # while it lives
    profile: Profile
    name: Name  # of its class, for people
    detached: bool = False


class ActorHosted(Struct, array_like=True, tag=161):
    """H -> O: this worker is there, and for nothing else. StartActor goes to it next. An unknown one is left again."""

    actor_id: TaskId
    incarnation: Count
    worker: ProcessId


class ActorWaitsThere(Struct, array_like=True, tag=162):
    """H -> O: why there is no worker for it yet; "" when that has changed. H has given it up if it is `broken` (workers
    of its job cannot be started at all), or `gone`: O may ask again, elsewhere, and there unless `message` says why H
    cannot have it."""

    actor_id: TaskId
    incarnation: Count
    message: Text = ""
    broken: bool = False
    gone: bool = False


class LeaveActor(Struct, array_like=True, tag=163):
    """O -> H: this incarnation needs no place any more. A worker that still hosts it is killed. Unknown ones are
    ignored."""

    actor_id: TaskId
    incarnation: Count


class KillGuest(Struct, array_like=True, tag=164):
    """O -> H: kill the worker of an actor of mine now; its death is told by GuestLost. Unknown ones are ignored."""

    worker: ProcessId
    reason: Text = ""


class GuestReady(Struct, array_like=True, tag=165):
    """H -> O: its worker says ActorReady."""

    worker: ProcessId
    ready: ActorReady


class GuestExit(Struct, array_like=True, tag=166):
    """H -> O: its worker says ActorExit."""

    worker: ProcessId
    exit: ActorExit


class CallsOf(Struct, array_like=True):
    """What the journal of a dead worker says of one caller's calls."""

    caller: ProcessId
    finished: list[Result] = []
    started: list[Count] = []


class GuestLost(Struct, array_like=True, tag=167):
    """H -> O: the worker of an actor of yours is dead, and its place free. A repeat is ignored (by worker)."""

    actor_id: TaskId
    incarnation: Count
    worker: ProcessId
    why: Text  # as "killed by signal 9 (SIGKILL)"
    callers: list[CallsOf] = []
    all_started: bool = False  # as in LeaseLost
    left: bool = False  # H leaves, and has ended it for that: if it may be restarted at all, that is not charged


class FenceRenew(Struct, array_like=True, tag=168):
    """H -> O: may your actors here go on? Every `fence_renew_s` while there are any. See core/fencing.py."""

    number: Count  # never used twice


class FenceRenewed(Struct, array_like=True, tag=169):
    """O -> H: yes, for `fence_right_s` from when you sent this. An unknown number is ignored."""

    number: Count


class ActorNews(Struct, array_like=True, tag=170):
    """O -> C: where an actor lives that processes of C's host watch, now and whenever that changes; C tells each of
    them with ActorState. A repeat changes nothing."""

    actor_id: TaskId
    incarnation: Count
    worker: bytes = b""  # as in ActorState
    failure: Failure | None = None
    callers: list[CallsOf] = []  # of C's host, from the journal of the incarnation that died
    all_started: bool = False
    heir: bytes = b""  # the peer that will own it when O is gone; b"" for none
    waits: Text = ""  # why it has no place; "" while it has, or has people of its own who are told


class UnwatchActor(Struct, array_like=True, tag=171):
    """C -> O: nobody on this host watches the actor any more. Unknown ones are ignored."""

    actor_id: TaskId


class NamedActor(Struct, frozen=True, array_like=True):
    """A name that an actor has, as its owner tells it."""

    namespace: Name
    name: Name
    actor_id: TaskId
    born_ms: Count  # since the epoch, by its owner's clock: of two with one name the older stays


class NameClaim(Struct, array_like=True, tag=172):
    """P -> P, to every member: an actor of this name is about to be created, unless you have one. Answered with
    NameAnswer. A repeat is answered again."""

    number: Count  # of this round of asking
    claim: NamedActor


class NameAnswer(Struct, array_like=True, tag=173):
    """P -> P: the sender has no such name, or it has one and this is its actor; `pending`: it is about to have one, and
    began first. The answer to an older round is ignored."""

    number: Count
    holder: NamedActor | None = None
    pending: bool = False


class NamesHeld(Struct, array_like=True, tag=174):
    """P -> P: actors of the sender have these names. To every member when one is added, and all of them to a new
    member. Of two actors with one name the younger one's owner ends it. A repeat changes nothing."""

    names: Annotated[list[NamedActor], Meta(max_length=1024)]


class NameFreed(Struct, array_like=True, tag=175):
    """P -> P, to every member: this actor of the sender has its name no more. Unknown ones are ignored."""

    actor_id: TaskId


class Will(Struct, frozen=True, array_like=True, tag=176):
    """O -> its heir: a detached actor of mine, as it is now. The newest one counts. See core/wills.py."""

    spec: CreateActor
    incarnation: Count
    restarts: Count
    worker: bytes = b""  # where it lives; b"" while it does not, or does not go on without O
    reign: Count = 0  # of the heir, if it inherits: higher than that of O and of all heirs that O has named before
    own: Count = 0  # of O: 0 if it was created there
    pause_s: float = 0.0  # O leaves: so long it must not be started again, since it may still live where O lost it


class WillOver(Struct, array_like=True, tag=177):
    """O -> a peer that had its will: it has ended, or has another heir. Answered with WillsHeld, unknown ones, too."""

    actor_id: TaskId
    reign: Count = 0  # of the newest heir that O has named: so many wills, at most, are over. 0: O has no such actor


class ProgramWanted(Struct, array_like=True, tag=184):
    """P -> whom it has a detached actor from, the job's home or a testator: what does it take to start one of this job
    when its program has ended? Answered with Program, as soon as that is known. Repeated when others wait for P's
    answer than before; a repeat is answered again. See core/programs.py."""

    job: ProcessId
    behind: Annotated[list[ProcessId], Meta(max_length=1024)] = []  # peers that wait for P, at first or second hand


class Program(Struct, array_like=True, tag=185):
    """This. Answered with ProgramHeld, unwanted ones, too. A repeat changes nothing."""

    job: ProcessId
    info: JobInfo | None = None  # as the driver's host has it, with `code`; None: it is not to be had
    archive: Annotated[bytes, Meta(max_length=1 << 20)] | Place | None = None  # the value of the code's object


class ProgramHeld(Struct, array_like=True, tag=186):
    """All of it is here, or cannot be had: nobody needs to keep it for us."""

    job: ProcessId


class Inherit(Struct, array_like=True, tag=178):
    """O -> its heir: I leave, it is yours. Answered with Inherited. A repeat is answered again."""

    actor_id: TaskId


class Inherited(Struct, array_like=True, tag=179):
    """The heir -> O: done; or not `taken`, since it leaves as well, or has too many wills already."""

    actor_id: TaskId
    taken: bool = True


class GuestMoves(Struct, array_like=True, tag=180):
    """O -> H, its heir -> H: this actor that lives with you has another owner from now on. Answered with GuestMoved.
    Unknown ones are answered, too. A repeat changes nothing."""

    actor_id: TaskId
    incarnation: Count
    worker: ProcessId
    owner: ProcessId  # hears of its death if it is dead already


class GuestMoved(Struct, array_like=True, tag=181):
    """H -> O, the heir: done."""

    actor_id: TaskId


class ActorsMoved(Struct, array_like=True, tag=182):
    """P -> P, to every member, and to new ones: the sender has taken over these detached actors, whatever owner stands
    in their ids. Of two that have taken over the same one, that of the lower reign gives way. A repeat changes
    nothing."""

    actor_ids: Annotated[list[TaskId], Meta(max_length=1024)]
    reigns: Annotated[list[Count], Meta(max_length=1024)] = []  # one for each


class WillsHeld(Struct, array_like=True, tag=183):
    """A peer -> O: of these detached actors of yours I have the wills, of those I have none (any more). When O is there
    again; as the answer to WillOver; as that to a Will, if I have too many. O answers with WillOver for each that is
    held and should not be."""

    held: Annotated[list[TaskId], Meta(max_length=1024)] = []
    over: Annotated[list[TaskId], Meta(max_length=1024)] = []
    reigns: Annotated[list[Count], Meta(max_length=1024)] = []  # of each of `over`: none up to this one


# -- questions ---------------------------------------------------------------------------------------------------------


class Ask(Struct, array_like=True, tag=70):
    """A -> P: a question of `peer.status`. Answered with Answer."""

    request: int
    what: Name  # "nodes", "resources", "status", "named_actors", "stop", and those about keys
    argument: Text = ""


class Answer(Struct, array_like=True, tag=71):
    """P -> A: msgpack of plain data, or why not."""

    request: int
    data: bytes = b""
    failure: Failure | None = None


class LogLine(Struct, array_like=True, gc=False):
    """One line that a worker printed, or that a peer has to say to the people of a job."""

    source: Name  # name of the task, the function or the actor; "" when nobody knows, or it is the peer's
    pid: int  # 0: it is the peer's
    text: Annotated[str, Meta(max_length=64 * 1024)]
    stderr: bool = False


class LogLines(Struct, array_like=True, tag=72):
    """P -> D: what its workers printed. From peers of other hosts as well, each of which keeps count by itself."""

    lines: list[LogLine]
    host: Name = ""  # the sender's name; "" for the driver's own peer


class LogsShown(Struct, array_like=True, tag=74):
    """D -> P: so much of what LogLines of the receiver brought was shown (`observe.weight`)."""

    size: Count


# -- between hosts -----------------------------------------------------------------------------------------------------

RELAY_WINDOW_BYTES = 1 << 20
"""What one process may have on its way to one process of another host. The same for all, so it is not configured: the
receiver's peer says RelayTaken when half of it is with the receiver, and until then the rest waits with the sender. So
a pair of processes costs either peer at most this much memory, or one message that is larger."""


class Relay(Struct, array_like=True, tag=80, gc=False):
    """A -> P: pass this on to a process of another host. `data` is an encoded Message, which P does not read."""

    destination: ProcessId
    data: bytes


class Relayed(Struct, array_like=True, tag=81, gc=False):
    """P -> A: a process or a peer of another host says this. As if `source` had said it directly."""

    source: ProcessId
    data: bytes


class RelayTaken(Struct, array_like=True, tag=82, gc=False):
    """P' -> A, relayed: `destination` has so many more bytes of what the receiver had sent to it."""

    destination: ProcessId
    size: Count


class NodeGone(Struct, array_like=True, tag=83):
    """P -> A: a host that the receiver dealt with is gone, or cut off for good: whatever was said to it may not have
    arrived, nothing of it will come, and whatever ran there is lost. Answered with NodeGoneSeen; what the receiver says
    to that host before it answers goes nowhere. A host that was only cut off may be spoken to again afterwards, as if
    for the first time."""

    node: NodeId
    reason: Text = ""


class NodeGoneSeen(Struct, array_like=True, tag=84):
    """A -> P: from here on what the sender says to that host is meant for after its end. One for each NodeGone."""

    node: NodeId


class NodeSilent(Struct, array_like=True, tag=187):
    """P -> A: a host that the receiver dealt with is suspected to be dead; or not any more. For people: nothing else
    follows from it, and it may come too late, or twice."""

    node: NodeId
    name: Name
    silent: bool


class ProcessThere(Struct, array_like=True, tag=85):
    """P -> P': a process of this host is about to speak to yours. Once per process and host, before all it says; its
    ProcessDied follows after all it has said. A repeat changes nothing."""

    process: ProcessId
    job: bytes = b""  # that it serves; b"" for none. P' knows it from a JobThere


class JobThere(Struct, array_like=True, tag=86):
    """P -> P': a job that the processes of this host serve. Before the first ProcessThere with it; once more when its
    `code` is known, if it was not. A repeat changes nothing. The paths in `info` are those of the driver's host."""

    info: JobInfo
    python: Name  # the minor version of its driver: "3.11"


class JobKnown(Struct, array_like=True, tag=87):
    """P -> P', the peer of the job's driver: somebody else told me of this job; tell me its end. Answered with JobOver
    when it is over, or unknown. A repeat changes nothing."""

    job: ProcessId


class JobOver(Struct, array_like=True, tag=88):
    """P -> P': the job has ended, or its driver is gone. A repeat changes nothing."""

    job: ProcessId


class JobDone(Struct, array_like=True, tag=89):
    """P' -> P, after JobOver: nothing of the job runs here any more, but what its detached actors need, and what was
    printed has been sent. One that is not awaited is ignored."""

    job: ProcessId


class Wake(Struct, array_like=True, tag=73):
    """A process to itself: look at your queues."""


Message = (
    Attach
    | Attached
    | Bind
    | Detach
    | Exit
    | CodeWanted
    | CodeReady
    | PeerStops
    | Demand
    | AskAlso
    | LoadNow
    | PeerLeaves
    | JobWanted
    | LeaseGranted
    | LeaseReturned
    | LeaseRevoked
    | LeaseWanted
    | LeaseLost
    | Infeasible
    | Blocked
    | Unblocked
    | Push
    | PlainPush
    | Results
    | PlainResults
    | GivenBack
    | Cancel
    | CarrierDone
    | KillWorker
    | Orphans
    | OrphanDone
    | Retried
    | Promote
    | Resolve
    | Hold
    | HoldDone
    | Release
    | Fetch
    | Refetch
    | Remake
    | OutOfScope
    | Lodged
    | Fetched
    | Forget
    | ProcessDied
    | DeathSeen
    | DeathSettled
    | Sealed
    | CreditRequest
    | CreditGranted
    | SegmentsFree
    | PoolTrimmed
    | Pooled
    | TrimPool
    | Bring
    | Brought
    | Unused
    | Seek
    | Found
    | Pull
    | Piece
    | NoPiece
    | Whole
    | CopiesGone
    | Keep
    | Kept
    | Expired
    | CreateActor
    | StartActor
    | ActorReady
    | ActorExit
    | WatchActor
    | ActorState
    | KillActor
    | FindActor
    | ActorFound
    | HostActor
    | ActorHosted
    | ActorWaitsThere
    | LeaveActor
    | KillGuest
    | GuestReady
    | GuestExit
    | GuestLost
    | FenceRenew
    | FenceRenewed
    | ActorNews
    | UnwatchActor
    | NameClaim
    | NameAnswer
    | NamesHeld
    | NameFreed
    | Will
    | WillOver
    | Inherit
    | Inherited
    | GuestMoves
    | GuestMoved
    | ActorsMoved
    | WillsHeld
    | ProgramWanted
    | Program
    | ProgramHeld
    | Ask
    | Answer
    | LogLines
    | LogsShown
    | Relay
    | Relayed
    | RelayTaken
    | NodeGone
    | NodeSilent
    | NodeGoneSeen
    | ProcessThere
    | JobThere
    | JobKnown
    | JobOver
    | JobDone
    | Wake
)

PROTOCOL = 1
"""Version of this file. Another version is refused at Attach with both numbers."""
