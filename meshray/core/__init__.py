"""Pure decisions: events in, effects out, time passed in. `effects.py` says how; each file answers one question.

In the peer::

    leases              who gets the slots?  with demands (whose turn), quantum (who gives way), grants and slots (the
                        books), trouble (what is told to those who wait long)
    assignment          which worker serves a grant?  with workers (the pool), startup (may another one be started?)
    objects             what does this peer answer for?  with object_table, departures (who accounts for the dead),
                        gone (why nobody answers)
    adoption            who makes the pending objects of a dead submitter?  with heirs (what an attempt costs), silence
                        (who has not told of it)
    actors              which actors are there, and where?  with lives (restarts), names, early (who asked too soon)
    store_accounts      whose room in the store is what?

In drivers and workers::

    submission          which worker runs which task, and when?  with pending (one task, from submission to result);
                        the peer uses it too, for what it adopted
    calls               calls of actors, in order per caller
    records             what does this process know of objects, and who counts whom?
    lineage             what can make a pending task again?
"""
