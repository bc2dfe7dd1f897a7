"""Hosts as network namespaces on a bridge of the kernel: as fast as this machine is, or as slow as links are told.

The hosts are those of `tests/lan`. Its switch, in user space, can do what a bad network does, and is no match for the
kernel's own bridge in speed. Needs root, iproute2 and util-linux.
"""

from __future__ import annotations

import shutil
import subprocess

from tests.lan import network
from tests.lan.network import Host, Hosts

BURST_BYTES = 256 << 10  # of a limited link: what may pass at once
QUEUE = "50ms"  # of a limited link: how long a frame may wait for its turn before it is dropped


def why_not() -> str:
    """Why nothing can be measured between hosts here; empty when it can."""
    if shutil.which("tc") is None:
        return "needs `tc` (Debian's iproute2)"
    return network.why_not(switch=False)


class Bridged(Hosts):
    """`names` hosts with so much shared memory each. `limit_mbit`: of each host's link, in both directions; 0: none."""

    def __init__(self, *names: str, shared_memory_bytes: int, limit_mbit: int = 0) -> None:
        super().__init__()
        self._bridge: Host | None = None
        try:
            self._bridge = Host("bridge", 0, self.folder / "bridge")
            self._bridge.ip("link add br0 type bridge mcast_snooping 0", "link set br0 up")
            for number, name in enumerate(names, start=1):
                host = self.hosts[name] = Host(name, number, self.folder / name, shared_memory_bytes)
                self._bridge.ip(
                    f"link add port{number} type veth peer name eth0 netns {host.pid}",
                    f"link set port{number} master br0",
                    f"link set port{number} up",
                )
                host.configure()
                if limit_mbit:
                    _limit(host, "eth0", limit_mbit)
                    _limit(self._bridge, f"port{number}", limit_mbit)
        except BaseException:
            self.close()
            raise

    def unplug(self) -> None:
        if self._bridge is not None:
            self._bridge.close()


def _limit(host: Host, interface: str, mbit: int) -> None:
    """What leaves by this interface leaves no faster."""
    words = f"tc qdisc add dev {interface} root tbf rate {mbit}mbit burst {BURST_BYTES} latency {QUEUE}"
    subprocess.run([*host.entering(), *words.split()], check=True, capture_output=True, text=True)
