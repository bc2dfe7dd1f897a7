"""The part of drivers and workers that submits, gets, puts, waits and counts.

General layout::

    client          `Client`: what the api reaches through `context`; it only hands on to the files below
    attach          a driver finds a peer or starts one
    joining         introduce oneself to the peer, build the runtime around its answer
    attachment      what the peer's answer has told: an engine is built from that
    engine          the endpoint and the cores of one process, and the turn that ties them together
    submitted       from the inboxes to the cores
    dependencies    references among a call's arguments: it waits for their values
    finished        from the cores to the records: what became of tasks and calls
    infeasible      tasks for which there is no room: they fail, or people hear why they wait
    deaths          processes and hosts that are gone
    last_handles    objects whose last handle here is gone
    lost            values of which every copy is lost
    unfetched       failures that nobody fetches: for people
    abroad          what is said to processes of other hosts
    pump            who waits at the socket
    shield          sections of the main thread that no interrupt enters
    waiting         `get`, `wait`, callbacks and futures
    tasks           from a call's arguments to a pending task
    actors          creating, finding, calling, killing
    cancelling      `cancel` in all its cases
    values          values to bytes or segments, and back
    copies          values that lie on other hosts, through the copies that the peer has fetched
    failures        exceptions to `Failure` messages, and back
    silent          hosts that do not answer, where this process has work or values: for people
    driver_logs     what workers printed

`engine` and `pump` are the hard ones; begin with `pump`'s theory.
"""
