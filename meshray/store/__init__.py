"""The store of one host: large values, each in one sealed segment of shared memory, mapped and never copied on reading.

General layout:

    segments    `SegmentStore`, what one process does: write, open, free, its credit and its pool
    files       one segment as a file: sizes, names, the stamp that tells whose value is in it, writing
    mapping     one segment as memory: views that keep it mapped, and tell when the last of them is gone
    pool        freed segments that wait to be written again
    copies      segments that a peer writes piece by piece: copies of values of other hosts
    transit     what a peer sends to other hosts straight from the memory of segments, until it has left
    spans       mappings that a peer keeps while values travel, for both of these
    folders     where segments live, how much may lie there, what a dead process left
    journal     the crash journal of a worker

The peer accounts and decides (`core.store_accounts`); a process only spends the credit that it was given.
"""
