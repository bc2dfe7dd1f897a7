"""The worker process: from the zygote that forks it to its end.

General layout::

    zygote        the clean, preloaded process that forks workers
    birth         how its copy becomes a worker
    main          a worker's life: introduce itself, be bound to a job, run tasks or host one actor
    executor      running attempts, one after the other, in the main thread
    unsent        when their results leave, and in which messages
    blocking      what is lent and given back while they wait
    hosted        what the executor asks of an actor
    actors        the actor that a worker hosts, and its three ways to run calls
    code          the copy of the program's own folder, on other hosts than the driver's
    functions     functions and classes, unpickled once
    outcomes      what a function returned or raised, as a `Result`
    orphans       what it owes to the peer when a submitter dies
    streams       whose line it is that was printed
    forked        user code that forks and comes back
    exits         its own end in good order: what it still waits for, and what user code has registered for it
    descendants   the end of what a dead worker left running
"""
