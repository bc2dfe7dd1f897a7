"""What a member tells of itself along with its state: the load that membership carries unread (`wire.gossip`).

It rides in many messages, so it is small: custom resources that do not fit are left out, and counted.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from meshray.resources import Amounts
from meshray.wire.gossip import LOAD_MAX_BYTES

NAME_MAX_CHARS = 255
RESOURCES_MAX = 256

Name = Annotated[str, msgspec.Meta(max_length=NAME_MAX_CHARS)]
Amount = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class MemberLoad(msgspec.Struct, frozen=True, array_like=True):
    """The resources of a peer, and how much of them is in use. `used` may exceed `total`: woken tasks run in debt."""

    version: Annotated[str, msgspec.Meta(max_length=64)]  # of meshray
    total: Annotated[dict[Name, Amount], msgspec.Meta(max_length=RESOURCES_MAX)]
    used: Annotated[dict[Name, Amount], msgspec.Meta(max_length=RESOURCES_MAX)]
    left_out: int = 0  # how many custom resources did not fit


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(MemberLoad)

_FIRST = ("CPU", "GPU", "memory", "object_store_memory")


def encode_load(version: str, total: Amounts, available: Amounts) -> bytes:
    """At most `LOAD_MAX_BYTES`; the resources that everybody has come first."""
    names = sorted(total, key=lambda name: (name not in _FIRST, name))
    kept = [name for name in names if len(name) <= NAME_MAX_CHARS][:RESOURCES_MAX]
    while True:
        used = {name: total[name] - available.get(name, 0) for name in kept}
        load = MemberLoad(
            version[:64],
            {name: total[name] for name in kept},
            {name: amount for name, amount in used.items() if amount},
            len(names) - len(kept),
        )
        data = _encoder.encode(load)
        if len(data) <= LOAD_MAX_BYTES:
            return data
        kept.pop()


def decode_load(data: bytes) -> MemberLoad | None:
    """What a member says; None when it has said nothing yet, or nothing that this version understands."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
