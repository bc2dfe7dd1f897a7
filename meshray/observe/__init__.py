"""What people read: lines of workers, and what a peer says of itself.

General layout::

    markers    whose line it is: workers say it in their streams, the peer reads it
    folding    lines as the driver prints them, repetitions folded
    notes      the log of a peer
"""
