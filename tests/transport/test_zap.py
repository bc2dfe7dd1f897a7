"""Who is admitted, and that a port whose lock does not hold is not believed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from meshray.transport.mesh_options import mesh_router, new_mesh_context
from meshray.transport.zap import DOMAIN, VERSION, NotProven, Zap, prove
from tests.transport.mesh_keys import curve_keys

KEYS = curve_keys()
FRAME_MAX = 1 << 20


class House:
    """A context, what is open in it, and ports on loopback."""

    def __init__(self) -> None:
        self.context = new_mesh_context()
        self.open: list[zmq.Socket[bytes]] = []

    def zap(self, kind: type[Zap] = Zap) -> Zap:
        zap = kind(self.context, KEYS)
        self.open.append(zap._socket)
        return zap

    def port(self, enforce: bool = True, curve: bool = True) -> str:
        """The URL of another port."""
        router = mesh_router(self.context, KEYS, DOMAIN, FRAME_MAX)
        self.open.append(router)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, int(enforce))
        if not curve:
            router.setsockopt(zmq.CURVE_SERVER, 0)
        router.bind("tcp://127.0.0.1:*")
        return router.getsockopt_string(zmq.LAST_ENDPOINT)


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.context.destroy(linger=0)


def test_a_port_that_holds(house: House) -> None:
    zap = house.zap()
    prove(house.context, house.port(), KEYS, zap.serve)
    assert zap.counts == {"admitted": 1, "unknown key": 1}  # the other two never got so far


@pytest.mark.fault(54)
def test_without_a_handler_nobody_gets_in(house: House) -> None:
    """It fails closed: the member is not admitted either, so the peer does not start."""
    with pytest.raises(NotProven, match="a member was"):
        prove(house.context, house.port(), KEYS, lambda: None, timeout_s=0.5)


@pytest.mark.fault(54)
def test_a_handler_that_died_lets_nobody_in(house: House) -> None:
    zap = house.zap()
    url = house.port()
    prove(house.context, url, KEYS, zap.serve)
    zap.close()
    with pytest.raises(NotProven, match="a member was"):
        prove(house.context, url, KEYS, zap.serve, timeout_s=0.5)


def test_the_proof_sees_that_the_domain_is_not_enforced(house: House) -> None:
    """What libzmq does without that option and without a handler: anyone is let in who knows the port's key."""
    with pytest.raises(NotProven, match="none of his own was admitted"):
        prove(house.context, house.port(enforce=False), KEYS, lambda: None)


def test_the_proof_sees_a_handler_that_admits_anybody(house: House) -> None:
    class Friendly(Zap):
        def _judge(self, request: list[bytes]) -> tuple[str, str]:
            return "friend", "admitted"

    zap = house.zap(Friendly)
    with pytest.raises(NotProven, match="none of his own was admitted"):
        prove(house.context, house.port(), KEYS, zap.serve)


def test_the_proof_sees_a_port_without_encryption(house: House) -> None:
    zap = house.zap()
    with pytest.raises(NotProven):
        prove(house.context, house.port(curve=False), KEYS, zap.serve, timeout_s=2.0)


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    "request_frames",
    [
        [],
        [b"1.0"],
        [b"2.0", b"1", DOMAIN, b"", b"", b"CURVE", bytes(32)],
        [VERSION, b"1", b"other", b"", b"", b"CURVE", bytes(32)],
        [VERSION, b"1", DOMAIN, b"", b"", b"PLAIN", b"user", b"password"],
        [VERSION, b"1", DOMAIN, b"", b"", b"NULL"],
        [VERSION, b"1", DOMAIN, b"", b"", b"CURVE", b"short"],
        [VERSION, b"1", DOMAIN, b"", b"", b"CURVE", bytes(32)],
    ],
)
def test_anything_but_a_member_is_refused(house: House, request_frames: list[bytes]) -> None:
    zap = house.zap()
    asker = house.context.socket(zmq.DEALER)
    house.open.append(asker)
    asker.connect("inproc://zeromq.zap.01")
    asker.send_multipart([b"", *request_frames])
    while zap.serve():
        pass
    assert sum(zap.counts.values()) == 1
    assert "admitted" not in zap.counts
    if len(request_frames) > 1:
        reply = asker.recv_multipart(zmq.DONTWAIT)
        assert reply[3] == b"400"
