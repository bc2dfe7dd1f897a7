"""Functions of plans: several, of which few have room where they are sent, so that they come and go.

`Kept` is the shipped cache of a worker, with the invariants: what begins is there, and what a submitter counts on is
within the bound.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from meshray.config import Config
from meshray.core.shipped import weight_of
from meshray.wire import messages as m
from meshray.worker.functions import Functions

FUNCTIONS = [m.Blob(bytes([number]) * 16, f"f{number}", bytes(number % 3 * 1000)) for number in range(1, 8)]
LARGEST = max(map(weight_of, FUNCTIONS))
WEIGHTS = {blob.hash: weight_of(blob) for blob in FUNCTIONS}


def function_of(number: int) -> m.Blob:
    """The function of the plan with this number."""
    return FUNCTIONS[number % len(FUNCTIONS)]


def with_room_for_few(config: Config) -> Config:
    """One or two at a worker, and of each process at the peer."""
    return msgspec.structs.replace(config, functions_max_bytes=LARGEST + 1000, lineage_functions_max_bytes=LARGEST)


class Kept(Functions):
    """What a worker has. `seen` is the simulation's count of what happened."""

    def __init__(self, config: Config, seen: Counter[str]) -> None:
        super().__init__()
        self._config = config
        self._seen = seen
        self._had: set[bytes] = set()

    def on_push(self, submitter: bytes, push: m.Push | m.PlainPush) -> None:
        self.on_shipped(submitter, push.blobs, push.forget)
        self._seen["forgotten"] += len(push.forget)
        self._seen["shipped again"] += sum(blob.hash in self._had for blob in push.blobs)
        self._had |= {blob.hash for blob in push.blobs}
        counts_on = sum(WEIGHTS[function] for function, users in self._users.items() if submitter in users)
        assert counts_on <= max(self._config.functions_max_bytes, LARGEST)

    def on_host_gone(self, node: bytes, at_hand: bytes) -> None:
        for submitter in sorted({user for users in self._users.values() for user in users if user.startswith(node)}):
            self.on_submitter_gone(submitter, at_hand)
