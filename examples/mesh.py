"""A mesh on one machine: some peers make a picture together, and one of them is killed midway.

Each peer here stands for a machine of a LAN: it has a name, resources, a store, a runtime folder and a home (with a
copy of one fresh mesh key) of its own, listens at a port of the loopback interface, and joins the first one. This
program attaches to the first, as any program to the peer of its host, and submits the tiles of `mandelbrot.py`.
Where a tile is made is decided by the peers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from mandelbrot import HEIGHT, TILE_HEIGHT, TILE_WIDTH, WIDTH, Screen, corners, shades_of

import meshray as ray

NAMES = ("ada", "grace", "edsger", "barbara", "alan", "frances")
COLOURS = (36, 33, 35, 32, 34, 31)  # of each peer's tiles, on a terminal
CLI = (sys.executable, "-m", "meshray.cli")
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


class Peer:
    """One `meshray start`, as a child of this process. Everything of it is in `folder`."""

    def __init__(self, number, folder, key, port, seed):
        self.name = NAMES[number]
        self.port = port
        self.killed = False
        self.log = folder / "log"
        self._seed = seed  # the port of a member to begin with; 0: this is the first one
        self._colour = COLOURS[number]
        self._process = None  # until `start`
        home = folder / "home"
        home.mkdir(mode=0o700, parents=True)
        (home / "mesh.key").touch(mode=0o600)
        (home / "mesh.key").write_bytes(key)
        self.environment = {"MESHRAY_HOME": str(home), "MESHRAY_RUNTIME_DIR": str(folder / "run")}

    def start(self, num_cpus, preset):
        command = [*CLI, "start", "--foreground", "--name", self.name, "--num-cpus", str(num_cpus), "--preset", preset]
        command += ["--resources", json.dumps({self.name: 1}), "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--join", f"127.0.0.1:{self._seed}"] if self._seed else []
        with uninterrupted(), self.log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for this program, which then stops its peers
            )

    def members(self):
        """The names of those whom this peer sees alive; none while it does not serve yet."""
        told = self.ask("status", "--json")
        if self._process.poll() is not None:
            sys.exit(f"the peer {self.name} did not start:\n{self.log.read_text()}")
        found = json.loads(told.stdout) if told.returncode == 0 else []
        return {member["name"] for peer in found for member in peer["mesh"]["members"] if member["state"] == "alive"}

    def ask(self, *words):
        """`meshray ...` on this peer's host."""
        return subprocess.run(
            [*CLI, *words],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )

    def kill(self):
        """What a power cut does to a machine: all of it is gone, and it says nothing."""
        self.killed = True
        self._process.kill()
        self._process.wait()

    def stop(self):
        """Tell it to end, and see to it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def paint(self, text):
        """`text` in this peer's colour, on a terminal."""
        return f"\x1b[{self._colour}m{text}\x1b[0m" if sys.stdout.isatty() else text


@contextlib.contextmanager
def mesh_of(count, num_cpus, preset):
    """So many peers that know each other. However the block ends, nothing of them is left."""
    folder = Path(tempfile.mkdtemp(prefix="mesh"))  # short, since the path of a Unix socket has at most 107 bytes
    peers = []
    try:
        key, ports = secrets.token_bytes(32), free_ports(count)
        for number, port in enumerate(ports):
            peers.append(Peer(number, folder / NAMES[number], key, port, ports[0] if number else 0))
            peers[-1].start(num_cpus, preset)
        wait_for_all(peers)
        yield peers
    finally:
        with uninterrupted():
            for peer in peers:
                peer.stop()
            if any(peer.killed for peer in peers):
                peers[0].ask("stop", "--all")  # sweeps what the killed left in shared memory, as the next start would
            shutil.rmtree(folder)


@contextlib.contextmanager
def uninterrupted():
    """A Ctrl-C within the block comes at its end."""
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            raise KeyboardInterrupt


def free_ports(count):
    """Ports of the loopback interface that nobody has."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def wait_for_all(peers):
    give_up_at = time.monotonic() + START_TIMEOUT_S
    names = {peer.name for peer in peers}
    while any(peer.members() != names for peer in peers):
        if time.monotonic() > give_up_at:
            sys.exit("the peers do not find each other:\n" + "\n".join(peer.log.read_text() for peer in peers))
        time.sleep(0.05)


# -- the program, as it would be on any mesh ---------------------------------------------------------------------------


@ray.remote
def greet():
    """Who answers."""
    return ray.get_runtime_context().get_node_id(), os.getpid()


@ray.remote
def render(left, top, samples, iterations):
    """One tile, and on which node it was made."""
    return shades_of(left, top, samples, iterations), ray.get_runtime_context().get_node_id()


class Shown(Screen):
    """The picture, each tile in the colour of the peer that made it where colours can be shown."""

    def __init__(self):
        super().__init__()
        self.makers = {}  # by corner

    def draw_of(self, peer, corner, shades):
        self.makers[corner] = peer
        self.draw(*corner, shades)

    def picture(self):
        if not self.live:
            return super().picture()
        return "\n".join(self.line(top) for top in range(HEIGHT))

    def line(self, top):
        parts = []
        for left in range(0, WIDTH, TILE_WIDTH):
            text = "".join(self.rows[top, left : left + TILE_WIDTH])
            peer = self.makers.get((left, top - top % TILE_HEIGHT))
            parts.append(peer.paint(text) if peer is not None else text)
        return "".join(parts)


def greet_all(peers):
    """Have a task run at each peer, by the custom resource that it alone has. The peers by node id."""
    refs = [greet.options(num_cpus=0, resources={peer.name: 0.01}).remote() for peer in peers]
    peer_of = {}
    for peer, (node, pid) in zip(peers, ray.get(refs), strict=True):
        peer_of[node] = peer
        print(f"  {peer.paint(peer.name.ljust(8))} node {node} at 127.0.0.1:{peer.port}; its worker {pid} says hello")
    return peer_of


def make_picture(peers, peer_of, options):
    """Have all tiles made, and kill the last peer when half of them are there. The tiles by corner."""
    victim, screen = peers[-1], Shown()
    start = time.perf_counter()
    corner_of = {render.remote(*corner, options.samples, options.iterations): corner for corner in corners()}
    waiting, count, tiles = list(corner_of), len(corner_of), {}
    made, made_before = Counter(), Counter()  # by peer; until the kill
    killed_at = 0.0
    while waiting:
        ready, waiting = ray.wait(
            waiting, timeout=0.2
        )  # while a dead peer is waited for, the time is shown all the same
        for ref in ready:
            shades, node = ray.get(ref)
            peer, corner = peer_of[node], corner_of[ref]
            tiles[corner] = shades
            made[peer] += 1
            screen.draw_of(peer, corner, shades)
        seconds = time.perf_counter() - start
        if not victim.killed and 2 * len(tiles) >= count:
            victim.kill()
            killed_at, made_before = seconds, made.copy()
        bar = ("#" * (24 * len(tiles) // count)).ljust(24, ".")
        shares = "  ".join(
            peer.paint(f"{peer.name} {made[peer]}") + f" (killed {seconds - killed_at:.1f} s ago)" * peer.killed
            for peer in peers
        )
        screen.show(f"[{bar}] {len(tiles)}/{count} tiles, {seconds:.1f} s  {shares}")
    if not screen.live:
        print(screen.picture())
    print(f"{count} tiles in {time.perf_counter() - start:.1f} s: {counts(peers, made)}")
    print(
        f"{victim.name} was killed after {killed_at:.1f} s, with {made_before.total()} tiles done. What it was at was "
        f"made again, and the rest: {counts(peers[:-1], made - made_before)}"
    )
    return tiles


def counts(peers, made):
    return ", ".join(f"{peer.name} {made[peer]}" for peer in peers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=int, default=3, choices=range(2, len(NAMES) + 1), metavar="N",
                        help=f"2 to {len(NAMES)}")  # fmt: skip
    parser.add_argument("--samples", type=int, default=16, help="points per character, in each direction")
    parser.add_argument("--iterations", type=int, default=1500, help="after so many a point counts as inside")
    parser.add_argument("--preset", default="default", help=argparse.SUPPRESS)
    options = parser.parse_args()

    num_cpus = max(1, len(os.sched_getaffinity(0)) // options.peers)
    print(f"{options.peers} peers of {num_cpus} {'CPU' if num_cpus == 1 else 'CPUs'} each start ...", flush=True)
    with mesh_of(options.peers, num_cpus, options.preset) as peers:
        os.environ.update(peers[0].environment)  # this program runs on the host of the first
        with ray.init("auto"):
            tiles = make_picture(peers, greet_all(peers), options)
    wrong = [
        corner
        for corner, shades in tiles.items()
        if not np.array_equal(shades, shades_of(*corner, options.samples, options.iterations))
    ]
    if wrong or sorted(tiles) != sorted(corners()):
        sys.exit(f"the picture is wrong: {len(wrong)} of {len(tiles)} tiles differ")
    print(f"All {len(tiles)} tiles are, bit for bit, what this process computes by itself: the picture is right.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
