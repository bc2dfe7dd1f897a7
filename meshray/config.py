"""Every constant of the mesh, with its reason, in one frozen object.

Presets are differences from `Config()`. A process receives the config of its peer in the answer to its `Attach`.
"""

from __future__ import annotations

import msgspec


class Config(msgspec.Struct, frozen=True, kw_only=True):
    # -- objects -----------------------------------------------------------------------------------------------------
    inline_max_bytes: int = 100 * 1024
    """A value up to this size travels inside messages; a larger one lives in the store."""

    # -- leases and submission ---------------------------------------------------------------------------------------
    lease_quantum_s: float = 0.1
    """How long a lease serves one job while another job waits (PROTOCOLS 5: a second driver starts within 0.5 s)."""

    lease_yield_s: float = 0.01
    """How long a lease serves its class while work that comes first in the same job waits (deeper tasks, actors)."""

    lease_reserve_s: float = 1.0
    """A request too large for what is free keeps smaller ones off for so long, then lets them pass for as long."""

    lease_idle_s: float = 0.2
    """How long a submitter keeps a lease without work for it, when nobody else waits."""

    lease_idle_wanted_s: float = 0.001
    """The same for a lease that somebody waits for: longer than from one synchronous call to the next (0.1 ms), or it
    would change hands for each of them, which costs ten times as much as the call."""

    lease_idle_resting_s: float = 0.01
    """The same for a worker that runs no task at the moment, and how often leases are looked at."""

    in_flight_work_s: float = 0.003
    """Expected work pushed ahead to one worker: 2-5 ms hide a round trip (200 us) without starving other workers."""

    portion_work_s: float = 0.0005
    """Expected work that is not divided among workers. Waking one costs about 0.1 ms of somebody's time (two switches
    of a core, cold caches); a worker that is awake may have twice as much before another one is woken."""

    in_flight_max_tasks: int = 512
    """A bound on the tasks in flight per lease, whatever their mean."""

    push_batch_max_bytes: int = 1 << 20
    """A bound on the arguments pushed to one worker ahead of their run."""

    deps_inline_max_bytes: int = 1 << 20
    """Values of a task's references that travel with it, in all; the executor fetches those beyond. (A task with a
    thousand small ones would not fit into `frame_max_bytes`.)"""

    function_max_bytes: int = 32 << 20
    """A pickled function or class that is larger has captured data that belongs into the store; with what else may
    travel in its message it stays below `frame_max_bytes`."""

    functions_max_bytes: int = 32 << 20
    """Functions that a worker keeps of one submitter, in pickled bytes and what each takes besides
    (`core.shipped`). A larger one is there alone. Each that was forgotten travels once more when it is used again: a
    millisecond per mebibyte, and it is unpickled anew."""

    hold_back_after_s: float = 0.01
    """A task that runs longer gives the tasks behind it back to their submitter."""

    # -- leases of other peers ---------------------------------------------------------------------------------------
    hops_max: int = 3
    """So often may a demand be sent on from peer to peer. Each hop asks one that seemed better two random choices
    later; after three of them the view was wrong, and it is better to wait."""

    demand_again_s: float = 0.5
    """So often peers are told that less of a class waits than was said: as people look at `meshray status`."""

    ask_again_s: float = 0.5
    """While a class waits it queues at one more busy peer each time this is over: loads are told as often."""

    ask_busy_max: int = 16
    """Busy peers at which one class queues: in a mesh that is full its turn comes at one of them."""

    ask_renew_s: float = 5.0
    """A class that still waits asks a peer anew after this time: it may have come to know the job only now."""

    promise_s: float = 1.0
    """What a submitter was sent to a host for is believed to be taken there for so long: twice the time after which a
    change of load is told (`load_interval_s`). What came and went in between changes no load; nobody tells of it."""

    look_again_s: float = 0.05
    """Loads that were told are looked at together, at most so often, for all classes that wait: what one of them has
    free may be taken elsewhere as quickly, and half a second may have passed before it was told."""

    look_rate: int = 40_000
    """And no more often than this many times in a second for one class and one member: each takes 1 to 2 us, so
    less than a tenth of the peer's time. So 20 classes are looked at each 50 ms among 100 members, 400 each second."""

    ask_also_work_s: float = 0.005
    """Other peers are asked for leases only for more expected work per lease than this: a worker elsewhere has to be
    bound to the job, if not started, and sent the function, so it would not begin sooner."""

    locality_min_bytes: int = 1 << 20
    """Large arguments count from here on: this much is fetched while a lease is asked for (10 ms at 1 Gbit/s)."""

    locality_bytes_per_s: float = 100e6
    """What is fetched per second, as expected: 1 Gbit/s. A task waits for a place where its arguments are as long as
    it would take to fetch them elsewhere: so it never takes more than twice the best time."""

    locality_wait_max_s: float = 2.0
    """And never longer than this."""

    spread_wait_s: float = 0.2
    """A class with SPREAD takes others' turns when they have not taken them within this time."""

    foreign_classes_max: int = 65536
    """Classes that all submitters of other hosts may have here at one time; demands beyond are not noted, and
    answered as by a host that is full."""

    # -- lineage -----------------------------------------------------------------------------------------------------
    lineage_inline_max_bytes: int = 1024
    """A small argument that was a reference stands in the lineage as its value; a larger one is borrowed instead."""

    lineage_closure_max_records: int = 10_000
    """How many records one promotion takes along with it: the arguments of a pending task, their arguments, ..."""

    lineage_closure_max_bytes: int = 16 << 20
    """The same in bytes of arguments; far below `frame_max_bytes`, since they travel in one message."""

    lineage_max_records: int = 100_000
    """How many pending tasks of others a peer can make again, in all; those beyond end with their submitter."""

    lineage_max_bytes: int = 256 << 20
    """The same in bytes of arguments and functions, each function once."""

    lineage_functions_max_bytes: int = 8 << 20
    """Functions that a peer keeps of one process for lineages to come, as `functions_max_bytes`. Those of lineages that
    it has stay with these. Less, since nothing is unpickled there."""

    remake_max_records: int = 100_000
    """How many finished tasks with results in a store a process can make again; the oldest go first. About 1 KiB each
    besides their arguments."""

    remake_max_bytes: int = 64 << 20
    """The same in bytes of arguments and functions, each function once."""

    adoption_patience_s: float = 5.0
    """How long the tasks of a dead submitter wait for processes that do not answer (stopped, or deep in C code). Much
    longer than an answer takes on a busy host: an attempt is charged for each silent executor."""

    begun_remembered_max: int = 1024
    """Attempts of submitters other than the driver that a worker remembers after it has lost their results: many more
    than can be on their way from a submitter to its peer when it dies (I2: an attempt begun is never uncounted)."""

    # -- workers -----------------------------------------------------------------------------------------------------
    workers_max: int = 512
    """A bound on the worker processes of one peer: nested `get`s each keep one waiting."""

    workers_max_by: str = "workers_max"
    """What sets it, for people: a peer with few file descriptors has fewer (`peer.service`)."""

    worker_idle_s: float = 60.0
    """How long an unused worker beyond the number of CPUs is kept."""

    worker_start_timeout_s: float = 60.0
    """A worker that has not said Ready by then is killed and counted as a crash at start."""

    start_crashes_max: int = 5
    """Crashes at start within `start_crashes_window_s` before a job's start-up error is reported (FAULTS 4)."""

    start_crashes_window_s: float = 30.0

    journal_bytes: int = 256 * 1024
    """The crash journal of one worker: small results that the submitter has not yet acknowledged."""

    # -- the program's own folder, on its way to other hosts ---------------------------------------------------------
    code_max_bytes: int = 100 << 20
    """What of it goes along, in bytes: some seconds of a LAN of 1 Gbit/s per host. Data belongs into the store."""

    code_max_files: int = 10_000
    """The same in files and folders: each costs a host 0.1 ms."""

    code_look_max_files: int = 100_000
    """What is looked at to find them, what does not go along included (a home, a folder full of results)."""

    code_look_s: float = 5.0
    """And for how long: file systems may be slow, and the first task on another host waits for it."""

    code_kept_max: int = 8
    """Copies of programs that nobody uses and a host keeps: the same one is likely to be run again."""

    # -- store -------------------------------------------------------------------------------------------------------
    exception_max_bytes: int = 1 << 20
    """A user's exception that pickles to more arrives without what is large in it: failures travel inside messages."""

    doubt_s: float = 30.0
    """What a host held that is gone stays held for so long, and likewise where another host could not tell all about a
    death: longer than the slowest detection takes (25 s), so that whoever had references from there has told of
    them."""

    store_fraction: float = 0.3
    """`object_store_memory` by default, as a part of RAM, within what shared memory holds."""

    store_credit_bytes: int = 64 << 20
    """Store credit is granted to a process in steps of this size, so an ordinary `put` needs no round trip."""

    store_wait_s: float = 10.0
    """How long a `put` into a full store waits for room before `ObjectStoreFullError`."""

    pool_idle_s: float = 5.0
    """How long a freed segment stays in its creator's pool before it is unlinked."""

    pool_max_bytes: int = 4 << 30
    """A bound on one process's pool. Generous: a pool is reclaimed on demand, and by itself after `pool_idle_s`."""

    # -- copies of values that lie on other hosts --------------------------------------------------------------------
    fetch_piece_bytes: int = 4 << 20
    """A value travels in pieces of this size: 34 ms of a link of 1 Gbit/s. Small enough that a copy that is not whole
    yet can be passed on, large enough that the work per piece (0.5 ms, on two hosts) is a tenth of its encryption."""

    fetch_frame_bytes: int = 1 << 20
    """A piece leaves in frames of this size (`wire.peers.Blocks`): while one is decrypted, the next is on its way. Of
    512 KiB it is not quicker, of 2 MiB slower (docs/decisions/0021)."""

    fetch_window_bytes: int = 8 << 20
    """What is asked for ahead of what has come, per value: covers a round trip of 10 ms at 6 Gbit/s."""

    fetch_peer_max_bytes: int = 16 << 20
    """The same for all values together that come from one peer: the window of its link (`link_window_bytes`)."""

    fetch_max_bytes: int = 64 << 20
    """The same for all: what a peer may have to keep of what it asked for."""

    bulk_window_bytes: int = 8 << 20
    """Pieces are read and sent to a peer while less than this is not acknowledged: half of `link_window_bytes`, so that
    the next ones are there when the acknowledgement comes. Less on a slow link, and in smaller pieces: `link_ahead_s`.
    """

    fetches_max: int = 64
    """Values that are fetched at a time; each has a file open. Others wait for their turn."""

    fetch_stall_s: float = 10.0
    """A source that sends nothing for so long is given up for another one (FAULTS 31)."""

    fetch_seeks_max: int = 8
    """How often the owner's peer is asked for other sources of one value before it counts as lost: copies may vanish
    one after the other, each by a death of its own."""

    pulls_max: int = 4096
    """Bound on the pieces that one peer may have asked for and not got: with `fetch_peer_max_bytes` there are four;
    one that asks for more gets nothing."""

    # -- bounds on what comes in -------------------------------------------------------------------------------------
    frame_max_bytes: int = 64 << 20
    """A bound on one message, which is one frame."""

    # -- links between peers -----------------------------------------------------------------------------------------
    link_window_messages: int = 1024
    """Messages of one stream on their way at once. Below the high-water marks of the sockets, so that these never stop
    reading, which would also stop the heartbeats."""

    link_window_bytes: int = 16 << 20
    """The same in bytes: 130 ms of a link of 1 Gbit/s. A larger message travels alone."""

    link_kept_max_messages: int = 200_000
    """What a stream keeps for a peer that does not answer, in messages; who sends more has lost that peer. Likewise
    what waits of our own words for a host (`core.road`)."""

    link_kept_max_bytes: int = 256 << 20
    """The same in bytes. The road stops at the window (`core.road`), so this is far from what ordinarily waits."""

    link_ack_after_s: float = 0.02
    """How long an acknowledgement waits for a message to travel with: far below `link_replay_after_s`."""

    link_ack_after_messages: int = 128
    """And for how many messages, so that a window never runs empty for want of one."""

    link_ack_after_bytes: int = 256 << 10
    """And for how many bytes: a quarter of `road_window_bytes`, which would else run empty."""

    link_ahead_s: float = 0.1
    """What is relayed, and pieces of values, leave only while less is on its way than the link carries in this time
    beyond that of an acknowledgement (`core.pace`): so long a word of the peers waits behind them (FAULTS 29)."""

    link_first_bytes: int = 256 << 10
    """The same in bytes, while nothing was measured: the link is found to be fast with the first acknowledgement."""

    link_least_bytes: int = 32 << 10
    """And the least, however slow the link: 26 ms of 10 Mbit/s."""

    link_base_kept_s: float = 10.0
    """How long the quickest acknowledgement counts; a way through the network may become longer."""

    link_replay_after_s: float = 2.0
    """Without progress for so long, a stream asks what has arrived, and begins again if something has not. It doubles
    with each question. Rarely needed: a lost connection replays at once; a socket may also swallow messages in
    silence."""

    link_replay_max_s: float = 16.0
    """The longest of these pauses."""

    link_slowest_bytes_per_s: int = 1 << 20
    """What a slow link (10 Mbit/s) carries: a question also waits for so long as what is on its way may take."""

    link_hello_again_s: float = 1.0
    """A Hello without an answer is repeated; doubles up to `link_replay_max_s`."""

    link_dial_timeout_s: float = 30.0
    """An address that has not answered by then is given up and reported."""

    link_stall_s: float = 30.0
    """A peer that acknowledges nothing for so long, plus what a slow link needs for what is on its way, is given up,
    also when the failure detector sees it: only this pair may be cut off (FAULTS 24), or it is no member yet."""

    link_ask_s: float = 10.0
    """A peer that has said nothing for so long, on a link that was ever used, is asked: a third of `link_stall_s`, so
    that it has three chances before it is given up for its silence."""

    link_anew_s: float = 2.0
    """A link to a member that is over is begun anew after so long, again and again. A pause, for the other side may be
    there and refuse it at once."""

    link_refusal_s: float = 5.0
    """How long a refusal is kept for its receiver to be reached, and the same peer is not refused again."""

    road_patience_s: float = 5.0
    """What is for a host of which no rumour has come waits so long: someone who knows it was quicker than the gossip,
    which takes O(log n) rounds. Then it counts as gone."""

    road_window_bytes: int = 1 << 20
    """What is relayed for processes waits in their peer while so much of the control stream is not acknowledged: what
    the peers themselves say is never behind more than that (8 ms of 1 Gbit/s). Less on a slow link: `link_ahead_s`."""

    links_max: int = 4096
    """Links of one peer, those that are being dialled or refused included."""

    links_gone_max: int = 1024
    """Dead incarnations that are remembered, so that one that wakes is told; and as many living ones whose links are
    over, so that the next one is not taken for the old one."""

    # -- the TCP port ------------------------------------------------------------------------------------------------
    mesh_silent_max: int = 256
    """Connections that have not yet shown a key: beyond these the port is closed for a pause (PROTOCOLS 10)."""

    mesh_pause_s: float = 1.0
    """The mean of that pause; it is drawn between half and one and a half of it."""

    mesh_idle_s: float = 60.0
    """A connection on which nothing was sent for so long is closed; the next message opens it again (3 ms on a LAN)."""

    # -- actors ------------------------------------------------------------------------------------------------------
    actor_exit_timeout_s: float = 2.0
    """How long a worker that was told to end its actor may take before it is killed, once nothing is under way for it
    any more; and one whose actor has not been constructed."""

    actor_finish_s: float = 30.0
    """So long an actor that ends in good order may wait for the tasks and calls that it has submitted and not waited
    for, since they end with it. (Ray waits without a bound.)"""

    exit_handlers_timeout_s: float = 1.0
    """How long what user code has registered with `atexit` may take in a worker that ends in good order: less than
    `actor_exit_timeout_s`, of which an actor has spent half at most when its handlers begin."""

    actor_backoff_s: float = 0.1
    """Pause before the second restart of an actor whose lives were short; it doubles with each (the first is free)."""

    actor_backoff_max_s: float = 5.0
    """Bound on that pause; an incarnation that lived longer than this begins anew at no pause."""

    name_claim_timeout_s: float = 2.0
    """A member that does not say by then whether it has an actor of a name has none: it is likely dead or cut off, and
    of two actors with one name one will go. Many times longer than an answer takes. `get_actor` waits as long for those
    that have not told of an actor of that name."""

    name_claim_again_s: float = 0.05
    """A claim that another one came before asks again after so long: some round trips, after which that one is
    decided."""

    names_told_max: int = 65_536
    """Names of one other peer that are remembered. Those beyond are found all the same, by asking everybody."""

    finds_max: int = 10_000
    """Names that processes of this host look for at one time."""

    heir_after_s: float = 60.0
    """So long after the death of a peer its detached actors are started elsewhere: it may be cut off, and needs up to
    45 s to notice that (a suspicion that nobody confirms lasts 24 s), before it ends them."""

    # -- the end of a peer (`core.drain`) -----------------------------------------------------------------------------
    leave_work_s: float = 10.0
    """How long tasks and calls that run may go on when the peer is told to end by a signal."""

    leave_end_s: float = 2.0
    """How long what then still runs may take to die: it is killed."""

    leave_move_s: float = 10.0
    """How long others may take to keep the values that lie here (1 GB over 1 Gbit/s), and to take over actors."""

    leave_say_s: float = 3.0
    """How long what was said to other hosts may take to arrive."""

    folders_look_s: float = 2.0
    """How often a peer looks whether its own folders are still there: what is asked of it in between fails."""

    keeps_max: int = 10_000
    """Values on their way to a peer from hosts that leave; beyond that others are asked."""

    wills_max: int = 10_000
    """Detached actors of other peers that one peer is the heir of."""

    actor_move_s: float = 1.0
    """An actor that has waited for a place on one host for so long looks whether another one has room: twice the time
    after which a change of load is told (`load_interval_s`)."""

    fence_renew_s: float = 2.0
    """So often a host asks each owner of its actors for the right to run them: five times within `fence_right_s`."""

    fence_right_s: float = 10.0
    """T of `core.fencing`: how long an answered request is good for. Longer than the usual time until a death is known
    (5-10 s): then the pause before a restart elsewhere is mostly over when it is known."""

    fence_margin_s: float = 1.0
    """What a host has, at least, for killing actors at the end of its right before their owner starts them again."""

    early_messages_max: int = 10_000
    """Bound on what is remembered of objects and actors whose own message is still on its way over another link."""

    # -- membership: SWIM with Lifeguard, at memberlist's LAN constants ------------------------------------------------
    probe_interval_s: float = 1.0
    """One member is probed so often, by each peer (SWIM's protocol period); times 1 + the health score."""

    probe_timeout_s: float = 0.5
    """An answer that takes longer makes helpers probe too: max(this, `probe_round_trips` round trips), times 1 + the
    health score. Round trips count because probes run over TCP, where a lost packet costs several."""

    probe_round_trips: float = 4.0

    probe_first_timeout_s: float = 2.0
    """The same for a member that has never answered: a link must be made first, some four round trips with CURVE."""

    probe_helpers: int = 3
    """How many others are asked to probe a member that does not answer (SWIM's k)."""

    probe_relays_max: int = 1024
    """A bound on the probes that are made for others at one time; more are not answered."""

    nack_after: float = 0.8
    """A helper says that it got no answer after this part of the time (Lifeguard 4.1)."""

    health_max: int = 7
    """Bound on the health score (Lifeguard's S; memberlist's AwarenessMaxMultiplier 8, less one)."""

    suspicion_mult: float = 4.0
    """A suspicion that others confirm lasts `suspicion_mult` * max(1, log10 n) * `probe_interval_s`: 4 s for up to ten
    members, 12 s for a thousand. Time for a refutation to arrive, which takes O(log n) rounds."""

    suspicion_max_mult: float = 6.0
    """One that nobody confirms lasts so many times longer: then it is likely the accuser who is cut off."""

    suspicion_confirmations: int = 2
    """So many other accusers bring it down to the shorter time, or all others if there are fewer."""

    last_probe_s: float = 2.0
    """A suspect is probed once more, for so long, before it is declared dead. So a partition, or a pause, of 5 s kills
    nobody (FAULTS 12, 21): the earliest death is 1 s of probing + 4 s + 2 s after the last answer, and TCP needs up to
    1.4 s after 5 s of silence to send again."""

    last_probe_helpers: int = 8
    """All others in a mesh of ten: one of them may be the only one who sees both halves (FAULTS 25)."""

    gossip_interval_s: float = 0.2
    """While there are news they are sent so often."""

    gossip_fanout: int = 3
    """To so many members each time."""

    gossip_recent: int = 16
    """Out of this many that answered a probe last: there is a link to them already, so few links are open in a large
    mesh; and their sequence is random, so what they hear gets everywhere."""

    gossip_copies_mult: int = 4
    """Each peer sends a piece of news this * ceil(log10(n + 1)) times (SWIM 4.1; memberlist's RetransmitMult)."""

    gossip_max_news: int = 64
    """Bound on the news in one Gossip; more wait for the next round."""

    probe_max_news: int = 16
    """Bound on the news that ride on a probe: it must stay quick."""

    load_rate: float = 10.0
    """Changes of load that the whole mesh may tell per second, so that the traffic of one peer does not grow with the
    mesh: a member tells its own every max(`load_interval_s`, n / `load_rate`) s, and to who probes it."""

    load_interval_s: float = 0.5

    load_copies: int = 3
    """Each peer sends a load so many times: 94 % get it (1 - s = exp(-3 s)), the rest the next one, or by their
    probe."""

    load_max_news: int = 16
    """Bound on the loads in one message."""

    sync_interval_s: float = 30.0
    """So often digests are compared with another member (memberlist's push-pull)."""

    sync_max_news: int = 128
    """Bound on the members in one SyncReply; there are as many messages as it takes."""

    join_retry_s: float = 1.0
    """A peer that knows nobody tries an address so often, then half as often, ... up to `contact_interval_s`."""

    contact_interval_s: float = 10.0
    """So often an address of a dead member, or a seed that no living member has, is tried: that is how the halves of a
    partition find each other again."""

    contacts_max: int = 64
    """So many seeds, and so many of those that died last, are tried in turn."""

    away_slack_s: float = 0.25
    """A tick may be so much late before the time counts as not lived: a slow turn of the peer's loop."""

    away_after_s: float = 1.0
    """Who was away for longer (suspended, stopped) starts anew with all that it suspects."""

    away_grace_s: float = 30.0
    """Who was away accuses nobody until somebody answers, or this time is over: the network needs time to come back."""

    members_max: int = 4096
    """Living members that are known, as many as there may be links: only a flood of invented ones comes to it. Those
    beyond are no members here, and are counted."""

    dead_remembered_max: int = 1024
    """So many dead nodes are remembered, the latest. One that is forgotten and wakes would be told that it is unknown,
    which has the same effect as being dead."""

    rejoin_after_s: float = 5.0
    """Who was declared dead joins through those who said so alone, for so long; then also through whom it knew before,
    and whom discovery finds: one of these may hold the others for dead, and would mix two tables."""

    guest_join_s: float = 10.0
    """How long the peer of `init("host:port")` may take to become a member: a name to resolve, a connection that is
    tried again after 3 s, a seed that is tried again after 1, 2 and 4 s."""

    probes_kept_max: int = 16
    """Messages of the failure detector that wait for a connection to one address; the newest count."""

    probes_kept_s: float = 2.0
    """And for so long: `probe_first_timeout_s`, after which nobody waits for an answer."""

    probe_lines_max: int = 4096
    """Addresses that datagrams were sent to and that are remembered; connections idle for `mesh_idle_s` are closed."""

    key_ask_again_s: float = 1.0
    """A question about keys goes by datagrams, which may get lost: it is repeated so often to who has not answered."""

    key_ask_s: float = 10.0
    """And for so long, until its answers are reported: a member that answers no question for so long is on its way to
    be declared dead (6.5 to 11 s)."""

    key_switch_after_s: float = 1.0
    """How long a member that was told to switch waits, so that all have been told when the first port answers with the
    other key: all dial anew once, at about the same time."""

    last_peers_write_s: float = 2.0
    """How soon the members seen last are written down after they have changed, and how often at most."""

    seeds_again_s: float = 30.0
    """How often the names among the seeds are resolved anew: where a cluster names its members, they come and go."""

    # -- interrupts and waiting --------------------------------------------------------------------------------------
    background_after_s: float = 0.004
    """How long nobody may have pumped before the background thread leads."""

    shutdown_timeout_s: float = 2.0
    """How long `shutdown()` waits for the last log lines."""

    peer_end_timeout_s: float = 5.0
    """And then for the private peer to end; one that has not by then is stuck, and is killed. It takes 30 ms, more on a
    busy machine, and each part of it has a bound: the sum of those for workers, mDNS, and the two kinds of links."""

    infeasible_after_s: float = 1.0
    """How long a request that no peer can ever meet waits before it is reported."""

    # -- the LAN: seeds and discovery --------------------------------------------------------------------------------
    mesh_port: int = 7637
    """The one TCP port of a host. Below 32768, where Linux takes the ports of outgoing connections from, and 49152,
    where others do: so nobody has it by chance."""

    seeds_max: int = 16
    """Addresses in a join token, in `--join`, in `MESHRAY_SEEDS`: any one of them that answers is enough."""

    seed_addresses_max: int = 256
    """Addresses taken from one DNS name: one per member, where a cluster's service names them all."""

    token_seeds_max: int = 6
    """Of these, so many in a token that names none itself: this host's own addresses, and some other members."""

    last_peers_max: int = 16
    """Members remembered for the next start: some are still there after a day. Each start dials them all."""

    last_peers_least: int = 5
    """Where fewer live, those that were seen before are remembered as well, the latest: when all come back from an
    outage, somebody has to begin."""

    last_peers_kept_s: float = 7 * 86_400.0
    """How long somebody who was seen is worth a dial: over a weekend, and a holiday."""

    discovery_listen_s: float = 2.0
    """How long `meshray start` without a key listens for a mesh before it makes one. A browser asks at once and again
    after one second, and answers are delayed by up to 0.5 s (RFC 6762, 6)."""

    advert_gap_s: float = 1.0
    """Between two versions of our own record: no record is multicast more than once in a second (RFC 6762, 6)."""

    interfaces_settle_s: float = 0.3
    """Changes of interfaces and addresses come in bursts (down, up, an address, its route): they are met together."""

    interfaces_rescan_s: float = 30.0
    """How often interfaces are looked at unasked, where the kernel's notices were lost or there are none."""

    discovery_retry_s: float = 10.0
    """Pause before mDNS is tried again after its sockets could not be opened (another program has the port)."""

    discovered_max: int = 4096
    """Bound on the peers that discovery remembers: far beyond one link, so only a flood of forged names meets it."""

    resolving_max: int = 16
    """Bound on the names that are asked for their record at the same time: forged ones make us ask, too."""

    resolve_timeout_s: float = 3.0
    """How long one of them is asked for (a TXT record nearly always comes with the name itself)."""

    # -- logs --------------------------------------------------------------------------------------------------------
    log_line_max_bytes: int = 16 * 1024
    log_ahead_max_bytes: int = 8 << 20
    """What was sent to a driver and it has not shown yet: beyond that what its workers print is not read."""

    log_ahead_abroad_max_bytes: int = 1 << 20
    """The same for a driver of another host: it may have workers on a hundred of them."""

    log_stall_s: float = 10.0
    """A driver that shows nothing for so long does not hold up its tasks: what they print is left out, and counted."""

    stderr_tail_bytes: int = 4 * 1024
    """How much of a worker's last stderr goes into `WorkerCrashedError`."""


DEFAULT = Config()

DETECTOR_TIMES = (
    "road_patience_s",
    "link_stall_s",
    "link_ask_s",
    "link_anew_s",
    "probe_interval_s",
    "probe_timeout_s",
    "probe_first_timeout_s",
    "last_probe_s",
    "gossip_interval_s",
    "load_interval_s",
    "sync_interval_s",
    "join_retry_s",
    "contact_interval_s",
    "away_slack_s",
    "away_after_s",
    "away_grace_s",
    "rejoin_after_s",
    "probes_kept_s",
    "fence_renew_s",
    "fence_right_s",
    "fence_margin_s",
    "heir_after_s",
)
"""The times of membership and fencing, which the `test` preset divides by five (suspicions are multiples of them)."""


def preset(name: str) -> Config:
    """The named preset: `default`, or `test`, which shortens what tests wait for, the detector's times to a fifth, and
    has room for few functions.

    Raises `ValueError` for another name.
    """
    if name == "default":
        return DEFAULT
    if name == "test":
        detector = {name: getattr(DEFAULT, name) / 5 for name in DETECTOR_TIMES}
        return msgspec.structs.replace(
            DEFAULT,
            store_wait_s=2.0,
            pool_idle_s=1.0,
            worker_idle_s=12.0,
            infeasible_after_s=0.2,
            doubt_s=6.0,
            actor_finish_s=6.0,
            guest_join_s=4.0,
            functions_max_bytes=256 << 10,
            lineage_functions_max_bytes=64 << 10,
            **detector,
        )
    raise ValueError(f"no such preset: {name!r} (there are: default, test)")
