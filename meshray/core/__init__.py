"""Pure decisions: events in, effects out, time passed in. `effects.py` says how; each file answers one question.

In the peer::

    leases              who gets the slots?  with demands (whose turn), granting (who gets what is free), quantum (who
                        gives way), grants, slots and lease_books (the books), trouble (what is told to those who wait
                        long), actor_slots (which actors want a place)
    jobs                which jobs are known, and when are they over?
    lease_ends          how do leases end?
    placement           on which hosts could a class run, and which of them should its submitter ask?  with spill_back
                        (who is told, and who hears how full this one is?)
    assignment          which worker serves a grant?  with workers (the pool), startup (may another one be started?)
    objects             what does this peer answer for?  with object_table, segments (which of it lies in files?),
                        deaths (when do holds of the dead end?), departures (who accounts for them), gone (why nobody
                        answers)
    owners              what becomes of what a process owns when it ends, or its job?
    promised            who wants what a dead submitter had promised, and what becomes of it?
    adoption            who makes the pending objects of a dead submitter?  with heirs (what an attempt costs), silence
                        (who has not told of it)
    actors              which actors are there, and where?  with lives (restarts), names, early (who asked too soon)
    store_accounts      whose room in the store is what?

In the peer, between hosts::

    membership          who is in the mesh? the face of what follows
    links               who is linked with this peer, and who may be?  with link (one of them), sessions (has it
                        arrived?), pace (how much may be on its way?), past (which may begin anew?), redials (which
                        shall, and when?)
    roster              what do news change?  with members (who is there, in which order news count), suspicion (how
                        long may a suspect take), gossip (which news ride on the next message)
    speaking            what is said to whom?
    probing             whom do I probe, when?  with health (am I slow myself), own_time (was I away)
    syncing, contacts   where do two tables differ?  which addresses do I try?
    rotation            how do all come to another key?
    member_effects      what this asks of the shell, and what is shown of a member
    road                how do processes of different hosts speak?  with homes (which life of a peer is there), ways
                        (what leaves next), foreigners (who must account for whose death), jobs_abroad (who knows of
                        which job), road_effects

Objects between hosts::

    foreign_objects     what have we to do with objects of other hosts, and they with ours?  with borrows (do their
                        owners know?)
    fetches             which values of other hosts are needed here, and from where do they come?
    whereabouts         who has copies of our objects?
    serving             which pieces were asked for, and can be sent now?
    moves               who keeps the values that lie on a host that leaves?
    programs            which programs are kept, so that their detached actors can be started without them?

When a peer ends::

    drain               in which order, and how long may each step take?

In drivers and workers::

    submission          which worker runs which task, and when?  with pending (one task, from submission to result),
                        shipped (which functions has the worker?); the peer uses it too, for what it adopted
    calls               calls of actors, in order per caller
    records             what does this process know of objects, and who counts whom?
    lineage             what can make a pending task again?  with held (what do its functions weigh?)
"""
