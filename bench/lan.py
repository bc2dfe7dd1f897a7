"""The rows between hosts: makes the hosts, starts the subject on them, and has `bench.between` measure on the first.

Each group has hosts of its own. The first one, `near`, has no CPUs, so that all that its driver submits runs elsewhere.
Nothing is left when the group ends, however it ends: hosts go with the process that made them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bench import curve, plan
from bench.cables import Bridged, why_not
from bench.timing import Figure, Pace, rate, summary
from tests.lan.network import Host, Program
from tests.until import until

if TYPE_CHECKING:
    from bench.child import Report

SHARED_MEMORY_BYTES = 8 << 30  # of a host; what is not used costs nothing
LINK_MBIT = 200
FAR = ("far", "further", "third", "fourth", "fifth")
ECHO_PORT, RAY_PORT = 7000, 6379
START_TIMEOUT_S = 60.0
CLI = ("python", "-m", "meshray.cli")
KEY = bytes(range(32))


def measure(group: str, report: Report, subject: str, pace: Pace) -> None:
    reason = why_not()
    if reason:
        raise RuntimeError(f"nothing can be measured between hosts here: {reason}")
    if group == plan.LIMITS_BETWEEN:
        limits(report, pace)
    elif group == plan.MEMBERS:
        start_to_member(report, pace)
        death_to_retry(report, pace)
    else:
        driven(group, report, subject, pace)


# -- what the machine can do -------------------------------------------------------------------------------------------


def limits(report: Report, pace: Pace) -> None:
    """Measured by a process on one host, against one on another."""
    with Bridged("near", "far", shared_memory_bytes=SHARED_MEMORY_BYTES) as hosts:
        address, public = echo_on(hosts["far"])
        words = ["--rows", json.dumps(report.wanted), "--out", str(report.path), *quick(pace)]
        finish(hosts["near"].start("python", "-m", "bench.lan", f"{address},{public}", *words))


def limits_here(report: Report, echo: str, pace: Pace) -> None:
    address, public = echo.split(",")
    with curve.connected(address, public.encode()) as caller:
        report.row(plan.CURVE_PING_PONG, lambda: rate(lambda: curve.round_trip(caller), 1, pace))

        def stream() -> Figure:
            curve.rate(caller)
            rates = [curve.rate(caller) for _ in range(2 * pace.windows)]
            return Figure(fmean(rates), min(rates), max(rates), f"pieces of {curve.PIECE_BYTES >> 20} MiB")

        report.row(plan.CURVE_STREAM, stream)


def echo_on(host: Host) -> tuple[str, str]:
    """The other end, on this host: its address and public key."""
    key = curve.Key.new()
    host.start("python", "-m", "bench.curve", f"{host.ipv4}:{ECHO_PORT}", key.public.decode(), key.secret.decode())
    return f"{host.ipv4}:{ECHO_PORT}", key.public.decode()


# -- what programs see -------------------------------------------------------------------------------------------------


def driven(group: str, report: Report, subject: str, pace: Pace) -> None:
    """One driver on `near`, and what it asks runs on one host, or on five."""
    names = FAR if group == plan.FAN_OUT else FAR[:1]
    limit = LINK_MBIT if group == plan.FAN_OUT else 0
    with Bridged("near", *names, shared_memory_bytes=SHARED_MEMORY_BYTES, limit_mbit=limit) as hosts:
        address = (start_ray if subject == "ray" else start_meshray)(hosts)
        words = ["--subject", subject, "--group", group, "--rows", json.dumps(report.wanted)]
        words += ["--out", str(report.path), "--address", address, "--hosts", str(len(names)), *quick(pace)]
        if group in (plan.CALLS_BETWEEN, plan.FETCHES):
            words += ["--echo", ",".join(echo_on(hosts[names[0]]))]
        environment: dict[str, Any] = environment_of_ray(hosts["near"]) if subject == "ray" else {}
        finish(hosts["near"].start("python", "-m", "bench.between", *words, **environment))


def finish(program: Program) -> None:
    """Wait for its end; the rows come through the report, so whoever waits for news waits for those."""
    status = program.wait(timeout_s=24 * 3600)
    program.close()
    print("\n".join(program.lines), file=sys.stderr)
    if status:
        raise RuntimeError(f"the driver ended with {status}")


def quick(pace: Pace) -> list[str]:
    return ["--quick"] if pace.scale < 1 else []


def resources_of(number: int) -> str:
    """Of the `number`-th host beside `near`, as `--resources` takes them: a name that it alone has."""
    return json.dumps({f"host{number}": 1})


def start_ray(hosts: Bridged) -> str:
    """Ray's head on `near`, a node on each other host. Where drivers find it."""
    command = str(Path(sys.executable).with_name("ray"))
    near, *others = hosts.hosts.values()
    address = f"{near.ipv4}:{RAY_PORT}"
    common = ["start", "--disable-usage-stats", "--object-store-memory", str(SHARED_MEMORY_BYTES // 2)]
    head = ["--head", "--port", str(RAY_PORT), "--num-cpus", "0", "--include-dashboard", "false"]
    head += ["--temp-dir", str(hosts.folder / "ray")]
    head += ["--node-ip-address", near.ipv4]
    near.run(command, *common, *head, timeout_s=START_TIMEOUT_S, **environment_of_ray(near))
    for number, host in enumerate(others):
        words = ["--address", address, "--node-ip-address", host.ipv4, "--num-cpus", "1"]
        words += ["--resources", resources_of(number)]
        host.run(command, *common, *words, timeout_s=START_TIMEOUT_S, **environment_of_ray(host))
    return address


def environment_of_ray(host: Host) -> dict[str, Any]:
    """Nobody else is on this network, so nobody has to prove who he is; nothing is written into the user's home."""
    return {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(host.folder)}


def start_meshray(hosts: Bridged) -> str:
    """A peer on each host, all of them members. Where drivers find it."""
    near, *others = hosts.hosts.values()
    peers = [MeshrayPeer(near, 0)]
    peers += [MeshrayPeer(host, 1, "--resources", resources_of(number)) for number, host in enumerate(others)]
    for peer in peers:
        until(peer.serves, f"the peer serves: {peer.program}", START_TIMEOUT_S)
    wait_for_all(peers)
    return "auto"


class MeshrayPeer:
    """A running `meshray start --foreground`; its program is the peer itself."""

    def __init__(self, host: Host, num_cpus: int, *options: str) -> None:
        self.host = host
        give_key(host)
        command = [*CLI, "start", "--foreground", "--num-cpus", str(num_cpus), *options]
        self.program = host.start(*command)
        self._asker = host.start("python", "-m", "tests.lan.asker")

    def serves(self) -> bool:
        if not self.program.running():
            raise RuntimeError(f"a peer did not start: {self.program}")
        return any("serves" in line for line in self.program.lines)

    def members(self) -> set[str]:
        """The names of those that it sees alive."""
        return members(self._asker)


def members(asker: Program) -> set[str]:
    """What a running `tests.lan.asker` tells; empty while no peer runs there."""
    before = len(asker.lines)
    asker.tell("status")
    until(lambda: len(asker.lines) > before, f"an answer: {asker}")
    mesh = json.loads(asker.lines[before])["mesh"] or {"members": []}
    return {member["name"] for member in mesh["members"] if member["state"] == "alive"}


def wait_for_all(peers: list[MeshrayPeer]) -> None:
    names = {peer.host.name for peer in peers}
    until(lambda: all(peer.members() == names for peer in peers), "all peers see all", START_TIMEOUT_S)


def give_key(host: Host) -> None:
    home = host.folder / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "mesh.key").touch(mode=0o600)
    (home / "mesh.key").write_bytes(KEY)


# -- members -----------------------------------------------------------------------------------------------------------


def start_to_member(report: Report, pace: Pace) -> None:
    """From the start of the command until both see each other, by multicast DNS alone."""

    def once(hosts: Bridged, old: MeshrayPeer, asker: Program) -> float:
        new = hosts["far"]
        start = time.perf_counter()
        program = new.start(*CLI, "start")
        both = {"near", "far"}
        until(lambda: old.members() == both and members(asker) == both, f"both see both: {program}", START_TIMEOUT_S)
        took = time.perf_counter() - start
        program.wait()
        new.run(*CLI, "stop")
        until(lambda: old.members() == {"near"}, "it is gone")
        (new.folder / "home" / "peers.json").unlink(missing_ok=True)  # and remembers nobody
        return took

    def measured() -> Figure:
        with Bridged("near", "far", shared_memory_bytes=SHARED_MEMORY_BYTES) as hosts:
            old = MeshrayPeer(hosts["near"], 1)
            until(old.serves, f"the peer serves: {old.program}", START_TIMEOUT_S)
            give_key(hosts["far"])
            asker = hosts["far"].start("python", "-m", "tests.lan.asker")
            return summary([once(hosts, old, asker) for _ in range(pace.repeats)], "found by multicast DNS")

    report.row(plan.START_TO_MEMBER, measured)


def death_to_retry(report: Report, pace: Pace) -> None:
    """From SIGKILL for the peer under a running task until the task runs on another host."""

    def executions(folder: Path) -> list[dict[str, Any]]:
        """Oldest first."""
        told = [json.loads(path.read_text()) for path in folder.iterdir() if not path.name.startswith(".")]
        return sorted(told, key=lambda entry: float(entry["at"]))

    def once() -> float:
        with Bridged("near", *FAR[:2], shared_memory_bytes=SHARED_MEMORY_BYTES) as hosts:
            peers = {name: MeshrayPeer(host, int(name != "near")) for name, host in hosts.hosts.items()}
            for peer in peers.values():
                until(peer.serves, f"the peer serves: {peer.program}", START_TIMEOUT_S)
            wait_for_all(list(peers.values()))
            folder = hosts.folder / "executions"
            folder.mkdir()
            words = ["--subject", "meshray", "--group", "hold", "--out", str(folder)]
            driver = hosts["near"].start("python", "-m", "bench.between", *words)

            def runs(count: int) -> Callable[[], bool]:
                return lambda: len(executions(folder)) >= count or not driver.running()

            until(runs(1), f"the task runs: {driver}", START_TIMEOUT_S)
            if not driver.running():
                raise RuntimeError(f"the driver has ended: {driver}")
            killed_at = time.time()
            peers[executions(folder)[0]["host"]].program.kill()
            until(runs(2), f"it runs again: {driver}", START_TIMEOUT_S)
            first, again = executions(folder)[:2]
            if first["host"] == again["host"]:
                raise RuntimeError("it runs again on a host whose peer is dead")
            return float(again["at"]) - killed_at

    report.row(plan.DEATH_TO_RETRY, lambda: summary([once() for _ in range(min(3, pace.repeats))], "SIGKILL"))


if __name__ == "__main__":
    import argparse

    from bench.child import Report
    from bench.timing import FULL, QUICK

    parser = argparse.ArgumentParser()
    parser.add_argument("echo")
    parser.add_argument("--rows", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    limits_here(Report(options.out, json.loads(options.rows)), options.echo, QUICK if options.quick else FULL)
