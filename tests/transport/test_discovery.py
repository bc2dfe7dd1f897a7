"""The side of discovery that the peer's loop holds. Who is found on a LAN is shown in `tests/lan/test_discovery.py`."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from meshray.meshkey import MeshKey, MeshKeys
from meshray.transport.discovery import Addresses, Discovery, Found, Trouble, Withdrawn
from meshray.transport.interfaces import InterfaceError
from meshray.wire.advert import Advert

KEY = MeshKey(bytes(range(32)))
KEYS = MeshKeys(KEY.founded_mesh(), KEY)


@pytest.fixture
def discovery() -> Iterator[Discovery]:
    """Not started: findings are put in by hand."""
    found = Discovery(KEYS, bytes(8))
    yield found
    assert found.close()


def found(number: int, serial: int = 1) -> Found:
    advert = Advert(
        protocol=1, version="", python="3.11", node=bytes([number] * 8), incarnation=0, serial=serial, port=1,
        addresses=[bytes(4)], cpus=0, gpus=0, memory_bytes=0,
    )  # fmt: skip
    return Found(advert, ("0.0.0.0",))


def readable(discovery: Discovery) -> bool:
    return bool(select.select([discovery.fd], [], [], 0)[0])


def test_its_descriptor_is_readable_while_something_is_there(discovery: Discovery) -> None:
    assert not readable(discovery)
    assert discovery.take() == []
    discovery.on_finding(found(1))
    discovery.on_finding(found(2))
    assert readable(discovery)
    assert discovery.take() == [found(1), found(2)]
    assert not readable(discovery)
    discovery.on_finding(found(3))
    assert readable(discovery)
    assert discovery.take() == [found(3)]


def test_the_last_word_on_each_node_is_kept_and_no_history(discovery: Discovery) -> None:
    for serial in range(1000):
        discovery.on_finding(found(1, serial))
        discovery.on_finding(found(2, serial))
    discovery.on_finding(Withdrawn(bytes([1] * 8)))
    assert discovery.take() == [found(2, 999), Withdrawn(bytes([1] * 8))]


def test_addresses_and_trouble_are_told_when_they_change(discovery: Discovery) -> None:
    for _ in range(2):
        discovery.on_addresses(("10.0.0.1",))
        discovery.on_trouble("no")
    assert discovery.take() == [Addresses(("10.0.0.1",)), Trouble("no")]
    assert discovery.stats().hosts == ("10.0.0.1",)
    assert discovery.stats().trouble == "no"
    discovery.on_trouble("")
    discovery.on_addresses(("10.0.0.1",))
    assert discovery.take() == [Trouble("")]


def test_an_address_that_is_not_here_is_told_before_anything_starts() -> None:
    with pytest.raises(InterfaceError, match=r"192\.0\.2\.99"):
        Discovery(KEYS, bytes(8), bind=["192.0.2.99"])


def test_laptop_mode_loads_no_mdns() -> None:
    """Neither a program, nor a worker, nor a zygote, nor a peer without a LAN."""
    program = (
        "import sys\n"
        "import meshray, meshray.worker.main, meshray.worker.zygote, meshray.peer.service, meshray.boot.process\n"
        "import meshray.cli.commands\n"
        "print(sorted({'zeroconf', 'asyncio', 'psutil'} & set(sys.modules)))\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "zeroconf" not in told
