"""Who may speak to the port: the ZAP handler (ZeroMQ RFC 27), and the proof that it is asked.

Theory. libzmq asks the handler for each client that has got as far as to show a CURVE key. Without a handler it would
let anyone in who knows the server's public key, unless the socket says `ZAP_ENFORCE_DOMAIN`; with that it fails closed.
Since such an option may be lost in a build or by a slip, nothing is believed: `prove` dials the very socket that will
serve, before anybody else can reach it.

The handler is served by the poll of its owner and has no thread. Its answer is waited for by libzmq's I/O thread
without blocking, and at most as long as HANDSHAKE_IVL; a thread would need the same interpreter lock, and could die
unseen. An owner that hangs admits nobody. Whoever has no key never gets as far as to be a load here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import zmq
from zmq.utils import z85

from meshray.meshkey import MeshKey
from meshray.transport.keys import CurveKeys, KeySet, Pair
from meshray.transport.mesh_options import mesh_dealer, readable
from meshray.transport.monitors import Monitor

ENDPOINT = "inproc://zeromq.zap.01"
VERSION = b"1.0"
DOMAIN = b"meshray"

SERVE_BUDGET = 64
"""Requests answered per call of `serve`."""

PROOF_TIMEOUT_S = 10.0
"""All of it takes some ten milliseconds; a machine under load may take longer."""


class NotProven(Exception):
    """The port does not admit whom it should, or admits whom it should not: the peer must not open it."""


class Zap:
    """The handler of one context. A member's messages carry the id of the key that admitted it as `User-Id`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: CurveKeys) -> None:
        self.keys = keys  # whom to admit; replaced when the mesh changes its key
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        self.fd = int(self._socket.getsockopt(zmq.FD))
        self.counts: Counter[str] = Counter()  # "admitted", and the reasons of refusals

    def serve(self) -> bool:
        """Answer what was asked, without waiting. True when more may be waiting. A closed handler answers nobody."""
        if self._socket.closed:
            return False
        for _ in range(SERVE_BUDGET):
            if not readable(self._socket):
                return False
            self._answer(self._socket.recv_multipart(zmq.DONTWAIT))
        return True

    def _answer(self, frames: list[bytes]) -> None:
        """RFC 27: envelope, empty, version, request id, domain, address, identity, mechanism, credentials."""
        at = frames.index(b"") if b"" in frames else len(frames)
        request = frames[at + 1 :]
        if len(request) < 2:
            self.counts["no request"] += 1
            return
        key_id, reason = self._judge(request)
        self.counts[reason] += 1
        status = b"200" if key_id else b"400"
        reply = [VERSION, request[1], status, b"" if key_id else reason.encode(), key_id.encode(), b""]
        self._socket.send_multipart(frames[: at + 1] + reply, zmq.DONTWAIT)

    def _judge(self, request: list[bytes]) -> tuple[str, str]:
        """(the id of the key that admits, "admitted"), or ("", why not)."""
        if request[0] != VERSION or len(request) != 7:
            return "", "not a request of CURVE"
        _, _, domain, _, _, mechanism, public = request
        if domain != DOMAIN or mechanism != b"CURVE" or len(public) != 32:
            return "", "not a request of CURVE"
        key_id = self.keys.admitted.get(z85.encode(public), "")
        return key_id, "admitted" if key_id else "unknown key"

    def close(self) -> None:
        """From now on nobody is admitted."""
        self._socket.close(linger=0)


# -- the proof ---------------------------------------------------------------------------------------------------------


class _Client:
    """Somebody who knocks."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, who: str, keys: KeySet | None) -> None:
        self.who = who
        self.socket = mesh_dealer(context, keys)
        self.monitor = Monitor(context, self.socket)
        self.socket.connect(address)
        self.outcome = ""  # "admitted" or "refused", once it is known

    def look(self) -> None:
        for event in self.monitor.events():
            if event.kind is zmq.Event.HANDSHAKE_SUCCEEDED:
                self.outcome = "admitted"
            elif event.kind in (zmq.Event.DISCONNECTED, zmq.Event.HANDSHAKE_FAILED_AUTH):
                self.outcome = self.outcome or "refused"

    def close(self) -> None:
        self.monitor.close()
        self.socket.close(linger=0)


def prove(
    context: zmq.Context[zmq.Socket[bytes]],
    address: str,
    keys: CurveKeys,
    serve: Callable[[], object],
    timeout_s: float = PROOF_TIMEOUT_S,
) -> None:
    """Knock at `address` as a member and as three strangers; `serve` is called again and again meanwhile.

    Raises `NotProven` unless the member is admitted and each stranger is turned away.
    """
    ours = keys.current
    public, secret = zmq.curve_keypair()
    clients = [
        _Client(context, address, "a member", ours),
        _Client(
            context, address, "somebody who knows the port's key and has none of his own", _with(ours, public, secret)
        ),
        _Client(context, address, "somebody with the key of another mesh", KeySet(MeshKey.generate())),
        _Client(context, address, "somebody without CURVE", None),
    ]
    expected = ["admitted", "refused", "refused", "refused"]
    try:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not all(client.outcome for client in clients):
            serve()
            for client in clients:
                client.look()
            time.sleep(0.001)  # between two looks: the handshakes run in libzmq's own thread
    finally:
        for client in clients:
            client.close()
    for client, outcome in zip(clients, expected, strict=True):
        if client.outcome != outcome:
            found = client.outcome or f"neither admitted nor refused within {timeout_s:g} s"
            raise NotProven(f"the encrypted port does not hold: {client.who} was {found}, not {outcome}")


def _with(keys: KeySet, public: bytes, secret: bytes) -> KeySet:
    """The same port, dialled by another client."""
    stranger = object.__new__(KeySet)
    stranger.id, stranger.server, stranger.client = keys.id, keys.server, Pair(public, secret)
    return stranger
