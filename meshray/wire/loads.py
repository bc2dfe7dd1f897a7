"""What a member tells of itself along with its state: the load that membership carries unread (`wire.gossip`).

It rides in many messages, so it is small: custom resources, and labels, that do not fit are left out, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from meshray.ids import NODE_BYTES
from meshray.resources import Amounts
from meshray.wire.gossip import LOAD_MAX_BYTES

NAME_MAX_CHARS = 255
RESOURCES_MAX = 256

Name = Annotated[str, msgspec.Meta(max_length=NAME_MAX_CHARS)]
Amount = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class MemberLoad(msgspec.Struct, frozen=True, array_like=True):
    """The resources of a peer, and how much of them is in use. `used` may exceed `total`: woken tasks run in debt.

    A member's node id in the mesh is that of one life; what its processes and objects are named by is its *home* node,
    which stays while the peer's process runs."""

    version: Annotated[str, msgspec.Meta(max_length=64)]  # of meshray
    total: Annotated[dict[Name, Amount], msgspec.Meta(max_length=RESOURCES_MAX)]
    used: Annotated[dict[Name, Amount], msgspec.Meta(max_length=RESOURCES_MAX)]
    left_out: int = 0  # how many custom resources and labels did not fit
    home: Annotated[bytes, msgspec.Meta(max_length=NODE_BYTES)] = b""  # b"": it has said none, so no work goes there
    life: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0  # counts up with each life of that peer
    labels: Annotated[dict[Name, Name], msgspec.Meta(max_length=RESOURCES_MAX)] = {}
    leaving: bool = False  # it is being stopped: no work goes there any more
    store_used: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0  # bytes of objects, rounded up
    guest: bool = False  # it came by `init("host:port")`: it lends nothing, and leaves with its program


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(MemberLoad)

_FIRST = ("CPU", "GPU", "memory", "object_store_memory")


def encode_load(
    version: str,
    total: Amounts,
    available: Amounts,
    home: bytes = b"",
    life: int = 0,
    labels: Mapping[str, str] = {},
    leaving: bool = False,
    store_used: int = 0,
    guest: bool = False,
) -> bytes:
    """At most `LOAD_MAX_BYTES`; the resources that everybody has come first, then labels, then what else there is."""
    names = sorted(total, key=lambda name: (name not in _FIRST, name))
    kept = [name for name in names if len(name) <= NAME_MAX_CHARS][:RESOURCES_MAX]
    told = [label for label in sorted(labels) if len(label) <= NAME_MAX_CHARS and len(labels[label]) <= NAME_MAX_CHARS][
        :RESOURCES_MAX
    ]
    while True:
        used = {name: total[name] - available.get(name, 0) for name in kept}
        load = MemberLoad(
            version[:64],
            {name: total[name] for name in kept},
            {name: amount for name, amount in used.items() if amount},
            len(names) - len(kept) + len(labels) - len(told),
            home,
            life,
            {label: labels[label] for label in told},
            leaving,
            store_used,
            guest,
        )
        data = _encoder.encode(load)
        if len(data) <= LOAD_MAX_BYTES:
            return data
        if told and (not kept or kept[-1] in _FIRST):
            told.pop()
        else:
            kept.pop()


def decode_load(data: bytes) -> MemberLoad | None:
    """What a member says; None when it has said nothing yet, or nothing that this version understands."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
