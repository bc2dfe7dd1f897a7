"""Identifiers. Every id names its owner, so whoever holds one knows whom to ask.

Layout, in bytes, from left to right::

    NodeID     node(8)                              one start of one peer: never reused
    ProcessID  node(8) process(8)                   one process of that peer: its address and its incarnation
    TaskID     node(8) process(8) counter(8)        the process that submitted it, and its count there
    ActorID    the TaskID of the call that created the actor
    ObjectID   TaskID(24) index(4)                  the n-th return of a task; a `put` is return 0 of no task
    JobID      ProcessID of the driver

A peer or a process that starts anew draws a new id, so an id is also an incarnation: what is addressed to a dead one
reaches nobody else. In hot paths ids are plain `bytes`; the classes here are what programs see.
"""

from __future__ import annotations

import os
from typing import ClassVar, Self

NODE_BYTES = 8
PROCESS_BYTES = 16
TASK_BYTES = 24
OBJECT_BYTES = 28

PEER_SUFFIX = b"\0" * (PROCESS_BYTES - NODE_BYTES)
"""A peer is a process of its node as well: this one."""

FIRST_RETURN = b"\x00\x00\x00\x00"
NIL_OBJECT = b"\xff" * OBJECT_BYTES
"""The id of no object."""


def new_node() -> bytes:
    """A fresh node id (8 random bytes)."""
    return os.urandom(NODE_BYTES)


def new_process(node: bytes) -> bytes:
    """A fresh process id of `node` (16 bytes)."""
    return node + os.urandom(PROCESS_BYTES - NODE_BYTES)


def peer_of(process: bytes) -> bytes:
    """The process id of the peer that a process, or a node, belongs to."""
    return process[:NODE_BYTES] + PEER_SUFFIX


def object_of(task: bytes, index: int) -> bytes:
    """The id of return number `index` of `task`."""
    return task + index.to_bytes(4, "big")


def task_of(obj: bytes) -> bytes:
    """The task whose return `obj` is."""
    return obj[:TASK_BYTES]


def owner_process_of(task_or_object: bytes) -> bytes:
    """The process that created a task or an object id."""
    return task_or_object[:PROCESS_BYTES]


def owner_node_of(task_or_object: bytes) -> bytes:
    """The peer that owns what a task or object id names."""
    return task_or_object[:NODE_BYTES]


def node_of(process: bytes) -> bytes:
    """The node of a process."""
    return process[:NODE_BYTES]


def checked(binary: bytes, size: int, kind: str) -> bytes:
    """`binary`, if it may be an id. Raises `TypeError` for what is not bytes, `ValueError` for a wrong length."""
    if not isinstance(binary, bytes):
        raise TypeError(f"{kind} takes {size} bytes, got {type(binary).__qualname__}")
    if len(binary) != size:
        raise ValueError(f"{kind} takes {size} bytes, got {len(binary)}: {binary!r}")
    return binary


def bytes_of_hex(text: str | bytes, kind: str) -> bytes:
    """What `hex()` has written. Raises `TypeError` for what is not text, `ValueError` for what is not hexadecimal."""
    if not isinstance(text, str | bytes):
        raise TypeError(f"{kind}.from_hex takes a str, got {type(text).__qualname__}")
    try:
        return bytes.fromhex(text.decode("ascii") if isinstance(text, bytes) else text)
    except ValueError:
        raise ValueError(f"{kind}.from_hex takes what hex() gives, got {text!r}") from None


class BaseID:
    """An id as programs see it: immutable, hashable, ordered by nothing.

    Raises `TypeError` when it is built from what is not bytes, `ValueError` for a wrong length.
    """

    __slots__ = ("_bytes",)
    SIZE: ClassVar[int]

    def __init__(self, binary: bytes) -> None:
        self._bytes = checked(binary, self.SIZE, type(self).__name__)

    @classmethod
    def from_random(cls) -> Self:
        return cls(os.urandom(cls.SIZE))

    @classmethod
    def from_binary(cls, binary: bytes) -> Self:
        return cls(binary)

    @classmethod
    def from_hex(cls, text: str | bytes) -> Self:
        return cls(bytes_of_hex(text, cls.__name__))

    @classmethod
    def nil(cls) -> Self:
        return cls(b"\xff" * cls.SIZE)

    @classmethod
    def size(cls) -> int:
        """The length in bytes."""
        return cls.SIZE

    def is_nil(self) -> bool:
        return self._bytes == b"\xff" * self.SIZE

    def binary(self) -> bytes:
        return self._bytes

    def hex(self) -> str:
        return self._bytes.hex()

    def __bytes__(self) -> bytes:
        return self._bytes

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._bytes == self._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    def __reduce__(self) -> tuple[type[Self], tuple[bytes]]:
        return type(self), (self._bytes,)


class NodeID(BaseID):
    """One start of one peer."""

    __slots__ = ()
    SIZE = NODE_BYTES


class WorkerID(BaseID):
    """One process of a peer: a worker or a driver."""

    __slots__ = ()
    SIZE = PROCESS_BYTES


class JobID(BaseID):
    """One driver's work."""

    __slots__ = ()
    SIZE = PROCESS_BYTES


class TaskID(BaseID):
    """One task, through all its attempts."""

    __slots__ = ()
    SIZE = TASK_BYTES


class ActorID(BaseID):
    """One actor, through all its restarts."""

    __slots__ = ()
    SIZE = TASK_BYTES


class ObjectID(BaseID):
    """One object."""

    __slots__ = ()
    SIZE = OBJECT_BYTES


class PlacementGroupID(BaseID):
    """One placement group."""

    __slots__ = ()
    SIZE = TASK_BYTES


class FunctionID(BaseID):
    """The hash of a pickled function or class."""

    __slots__ = ()
    SIZE = 16
