"""What a peer says of itself on the LAN: the TXT record of its `_meshray._tcp.local.` service, as bytes and back.

Theory. Anybody on a link can answer any mDNS question, so nothing here is believed without the MAC, and nothing in it
means that a peer lives: a record outlives its peer by up to 75 minutes, and anybody can repeat one. *A record only ever
leads to a dial*, and the CURVE handshake judges who answers. What the MAC buys is that strangers can neither make us
dial what they like (the addresses are inside; A, AAAA and SRV records are ignored) nor show up in anybody's list.

The record is a sequence of strings (RFC 6763), in this order and no other::

    txtvers=1     the version of this format
    mesh=<hex>    the mesh id: another one is a foreign mesh, dropped without further work
    key=<hex>     the key id: the MAC is made with this key, and the CURVE handshake needs it too
    a=<bytes>     an `Advert` as MessagePack, up to 253 bytes
    b=<bytes>     the rest of it, where one string (255 bytes) does not hold it
    mac=<16 bytes>

The MAC is keyed BLAKE2b, with a subkey of the mesh key, over the service's name and every string before it: a record
under another name, or with any byte changed, is forged. Its checks need no clock. An old record of a living peer is
seen by its `serial`, which grows with every change; one of a dead peer names a node id that nobody has any more, so
that the dial it leads to ends at a closed port or at a peer that says it is somebody else.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated

import msgspec

from meshray.ids import NODE_BYTES
from meshray.meshkey import ID_BYTES, MeshKey, MeshKeys

SERVICE_TYPE = "_meshray._tcp.local."

RECORD_MAX_BYTES = 399
"""All strings with their lengths; a record has to fit into one packet beside the others of its service."""

STRING_MAX_BYTES = 255
ADDRESSES_MAX = 6
NAME_MAX_CHARS = 64
VERSION_MAX_CHARS = 16
MAC_BYTES = 16

_FORMAT = b"txtvers=1"
_MAC_PURPOSE = b"meshray advert"

_HEAD_BYTES = sum(1 + size for size in (len(_FORMAT), 5 + 2 * ID_BYTES, 4 + 2 * ID_BYTES, 4 + MAC_BYTES))
_PIECE_BYTES = STRING_MAX_BYTES - 2
BODY_MAX_BYTES = RECORD_MAX_BYTES - _HEAD_BYTES - 2 * 3  # two pieces, each with its length and its "a="

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Node = Annotated[bytes, msgspec.Meta(min_length=NODE_BYTES, max_length=NODE_BYTES)]
_Text = Annotated[str, msgspec.Meta(max_length=VERSION_MAX_CHARS)]
_Address = Annotated[bytes, msgspec.Meta(min_length=4, max_length=16)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_MAX_CHARS)]


class Advert(msgspec.Struct, frozen=True, array_like=True, kw_only=True, forbid_unknown_fields=True):
    """What one peer offers, in summary. Loads and everything else go by gossip, once one is a member."""

    protocol: _Count  # of the messages between peers
    version: _Text  # of meshray, for people
    python: _Text  # "3.11": closures travel only between equal ones
    node: _Node
    incarnation: _Count  # which life of the peer this node is: 1, and one more after each death sentence
    serial: _Count  # grows with every version of this node's record
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    addresses: Annotated[list[_Address], msgspec.Meta(min_length=1, max_length=ADDRESSES_MAX)]  # packed, 4 or 16 bytes
    cpus: _Count  # this one and the next are resources.Amounts
    gpus: _Count
    memory_bytes: _Count
    resources: Annotated[dict[_Name, _Count], msgspec.Meta(max_length=64)] = {}  # custom ones, by name
    left_out: _Count = 0  # how many custom resources did not fit

    def hosts(self) -> list[str]:
        """The addresses as text, in the peer's order of preference."""
        return [str(ipaddress.ip_address(address)) for address in self.addresses]


class AdvertError(Exception):
    """A record that leads nowhere. `reason` is one word, by which such are counted."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


MALFORMED = "malformed"  # not of this format
VERSION = "version"  # of a format that this version does not know
FOREIGN = "foreign"  # of another mesh
UNKNOWN_KEY = "unknown_key"  # of our mesh, by a key that is not here: we missed a rotation, or it was expelled
FORGED = "forged"  # the MAC is wrong: changed, or made by somebody without the key

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(Advert)


def service_name(node: bytes) -> str:
    """The name of a node's service. A node id is random and never used twice, so no two peers ask for one name."""
    return f"{node.hex()}.{SERVICE_TYPE}"


# -- writing -----------------------------------------------------------------------------------------------------------


def encode(advert: Advert, mesh: bytes, key: MeshKey) -> bytes:
    """The TXT record of `service_name(advert.node)`, at most `RECORD_MAX_BYTES`.

    Custom resources that do not fit are left out, the last by name first, and counted in `left_out`.
    """
    body = _fitting_body(advert)
    strings = [_FORMAT, b"mesh=" + mesh.hex().encode(), b"key=" + key.id.hex().encode(), b"a=" + body[:_PIECE_BYTES]]
    if len(body) > _PIECE_BYTES:
        strings.append(b"b=" + body[_PIECE_BYTES:])
    before = _joined(strings)
    record = before + _joined([b"mac=" + _mac(key, service_name(advert.node), before)])
    assert len(record) <= RECORD_MAX_BYTES, f"{advert} makes a record of {len(record)} bytes"
    return record


def _fitting_body(advert: Advert) -> bytes:
    names = [name for name in sorted(advert.resources) if 0 < len(name) <= NAME_MAX_CHARS][:64]
    while True:
        kept = {name: advert.resources[name] for name in names}
        fitting = msgspec.structs.replace(
            advert,
            version=advert.version[:VERSION_MAX_CHARS],
            resources=kept,
            left_out=advert.left_out + len(advert.resources) - len(kept),
        )
        body = _encoder.encode(fitting)
        if len(body) <= BODY_MAX_BYTES:
            return body
        assert names, f"without any resources, {advert} takes {len(body)} bytes of {BODY_MAX_BYTES}"
        names.pop()


def _joined(strings: list[bytes]) -> bytes:
    return b"".join(bytes([len(string)]) + string for string in strings)


def _mac(key: MeshKey, name: str, before: bytes) -> bytes:
    """Names of services are compared without case (RFC 6762, 16), so they are authenticated without it."""
    told = name.lower().encode()
    subkey = key.derive(_MAC_PURPOSE)
    return blake2b(len(told).to_bytes(2, "big") + told + before, key=subkey, digest_size=MAC_BYTES).digest()


# -- reading -----------------------------------------------------------------------------------------------------------


def read_unproven(record: bytes) -> tuple[bytes, Advert]:
    """The mesh id that a record claims and its advert, for a host that has no key yet: to show, never to dial.

    Raises `AdvertError`.
    """
    strings = _strings(record)
    return _claims(strings)[0], _body(strings[3:-1])


def decode(record: bytes, name: str, keys: MeshKeys) -> Advert:
    """The advert in the TXT record of the service `name`, proven by one of our keys. Raises `AdvertError`."""
    strings = _strings(record)
    mesh, key_id = _claims(strings)
    if mesh != keys.mesh:
        raise AdvertError(FOREIGN, f"{name} belongs to mesh {mesh.hex()}")
    key = keys.by_id(key_id)
    if key is None:
        raise AdvertError(UNKNOWN_KEY, f"{name} uses key {key_id.hex()}, which is not here")
    mac = strings[-1].removeprefix(b"mac=")
    before = record[: len(record) - 1 - len(strings[-1])]
    if not hmac.compare_digest(mac, _mac(key, name, before)):
        raise AdvertError(FORGED, f"{name} has a wrong MAC")
    advert = _body(strings[3:-1])
    if service_name(advert.node) != name.lower():
        raise AdvertError(MALFORMED, f"{name} is the record of node {advert.node.hex()}")
    return advert


def _strings(record: bytes) -> list[bytes]:
    if len(record) > RECORD_MAX_BYTES:
        raise AdvertError(MALFORMED, f"a record of {len(record)} bytes")
    strings, place = [], 0
    while place < len(record):
        size = record[place]
        string = record[place + 1 : place + 1 + size]
        if len(string) != size:
            raise AdvertError(MALFORMED, "a string that ends beyond the record")
        strings.append(string)
        place += 1 + size
    return strings


def _claims(strings: list[bytes]) -> tuple[bytes, bytes]:
    """Mesh id and key id of a record that has the right form from outside."""
    if strings and strings[0] != _FORMAT and strings[0].startswith(b"txtvers="):
        raise AdvertError(VERSION, f"a record of another version ({strings[0][8:].decode('ascii', 'replace')})")
    names = [string.partition(b"=")[0] for string in strings]
    if names not in ([b"txtvers", b"mesh", b"key", b"a", b"mac"], [b"txtvers", b"mesh", b"key", b"a", b"b", b"mac"]):
        raise AdvertError(MALFORMED, "strings that do not belong into such a record, or are missing")
    if len(strings[-1]) != len(b"mac=") + MAC_BYTES:
        raise AdvertError(MALFORMED, "a MAC of another length")
    return _id(strings[1], b"mesh="), _id(strings[2], b"key=")


def _id(string: bytes, prefix: bytes) -> bytes:
    text = string.removeprefix(prefix)
    try:
        value = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        value = b""
    if len(text) != 2 * ID_BYTES or len(value) != ID_BYTES or value.hex().encode() != text:
        raise AdvertError(MALFORMED, "an id that is none")
    return value


def _body(pieces: list[bytes]) -> Advert:
    try:
        advert = _decoder.decode(b"".join(piece[2:] for piece in pieces))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AdvertError(MALFORMED, f"not an advert: {error}") from error
    if any(len(address) not in (4, 16) for address in advert.addresses):
        raise AdvertError(MALFORMED, "an address that is neither IPv4 nor IPv6")
    return advert


def summary_of(totals: Mapping[str, int]) -> dict[str, int]:
    """The custom ones of a peer's resources: what `Advert.resources` takes."""
    return {name: amount for name, amount in totals.items() if name not in _NOT_CUSTOM}


_NOT_CUSTOM = frozenset({"CPU", "GPU", "memory", "object_store_memory"})
