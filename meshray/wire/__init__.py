"""What crosses a border between processes, as bytes.

General layout::

    messages      the protocol: every message, who sends it to whom, what a repeat does
    codec         messages to bytes and back, typed and bounded
    gossip        the protocol of membership, between peers; gossip_codec is its codec
    rotation      what members say to each other about keys, by the same codec
    loads         what a member tells of its resources, inside these
    payload       user values to bytes and back: the room that pickles
    trimmed       an exception without what makes it too large
    unpicklable   which part of a value cannot be pickled
    advert        what a peer says of itself on the LAN: a record with a MAC
    peers         what peers say to each other, and over which planes
    peer_codec    these messages to bytes and back
    envelopes     what the streams between peers carry: from which process, to which, and a message
    boot          what a worker is told at its birth
    forking       peer and zygote, over their own socket
"""
