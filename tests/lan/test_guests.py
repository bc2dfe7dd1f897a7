"""Guests: a program on a host without a peer joins through a member of another one, `init("host:port")`."""

from __future__ import annotations

from collections.abc import Callable

from tests.lan.network import Lan
from tests.lan.peers import Peer
from tests.until import until

PROGRAM = """
import sys
import meshray as ray
import numpy

try:
    ray.init(sys.argv[1], namespace="guests")
except ConnectionError as error:
    sys.exit(f"cannot: {error}")


@ray.remote
def where(*values):
    return ray.get_runtime_context().get_node_id(), sum(value.sum() for value in values), numpy.ones(1_000_000)


@ray.remote
class Counter:
    def __init__(self):
        self.count = 0

    def add(self, numbers):
        self.count += numbers.sum()
        return self.count


mine, there = ray.nodes()
assert "CPU" not in mine["Resources"] and there["Resources"]["CPU"] == 2, (mine, there)
large = ray.put(numpy.ones(1_000_000))
for node, total, ones in ray.get([where.remote(large, large) for _ in range(4)]):
    assert node == there["NodeID"] and total == 2_000_000 and ones.sum() == 1_000_000
try:
    counter = ray.get_actor("counter")
except ValueError:
    counter = Counter.options(name="counter", lifetime="detached", max_restarts=-1).remote()
print("counts", ray.get(counter.add.remote(large)), flush=True)
"""

FIREWALL = (
    "rule add ipproto 6 sport 7637 lookup main pref 10",
    "rule add ipproto 6 dport 32768-65534 prohibit pref 20",
)
"""On the member: answers pass, and nothing to a port that was drawn. (Numbers, as `/etc/protocols` may be missing.)"""


def test_a_guest_has_its_work_done_by_members_and_leaves_with_its_program(lan: Callable[..., Lan]) -> None:
    network = lan("a", "b")
    a = Peer(network["a"], "--num-cpus", "2")
    (network["b"].folder / "program.py").write_text(PROGRAM)
    (network["b"].folder / "home").mkdir(mode=0o700)
    key = network["b"].folder / "home" / "mesh.key"
    key.write_bytes((network["a"].folder / "home" / "mesh.key").read_bytes())
    key.chmod(0o600)
    words = ("python", str(network["b"].folder / "program.py"))
    network["a"].ip(*FIREWALL)
    told = network["b"].run(*words, f"{network['a'].ipv4}:7637", status=1)
    assert f"cannot: the mesh cannot be joined through {network['a'].ipv4}:7637: it is reached, and does not" in told
    network["a"].ip("rule del pref 20")
    first = network["b"].run(*words, f"{network['a'].ipv4}:7637")
    assert "counts 1000000.0" in first
    assert "ends with this program" not in first, "it does not"
    until(lambda: a.alive() == {a.first}, "it has left")
    again = network["b"].run(*words, f"[{network['a'].ipv6}]:7637")
    assert "counts" in again, "what it made for others outlives it"
    until(lambda: a.alive() == {a.first}, "it has left")
