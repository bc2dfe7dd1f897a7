"""Peers on hosts: started by the command line, asked by it, and compared."""

from __future__ import annotations

import json
from typing import Any

from meshray.meshkey import MeshKey
from tests.lan.network import Host, Program
from tests.lan.test_discovery import KEY, give_key
from tests.until import until

CLI = ("python", "-m", "meshray.cli")


class Peer:
    """A running `meshray start --foreground`; its program is the peer itself."""

    def __init__(
        self,
        host: Host,
        *options: str,
        key: MeshKey | None = KEY,
        folder: str = "",
        preset: str = "test",
        **environment: str,
    ) -> None:
        self.host = host
        self.environment = environment
        if folder:  # a second peer of a host has a runtime folder of its own
            self.environment["MESHRAY_RUNTIME_DIR"] = str(host.folder / folder)
        if key is not None:
            give_key(host, key)
        elif "--local" not in options:
            assert (host.folder / "home" / "mesh.key").exists(), "it would make a mesh"
        self.program: Program = host.start(
            *CLI, "start", "--foreground", "--preset", preset, "--num-cpus", "2", *options, **self.environment
        )
        self.asker = host.start("python", "-m", "tests.lan.asker", **self.environment)
        until(lambda: self.serves() or not self.program.running(), f"the peer on {host.name} starts")
        assert self.program.running(), self.program
        status = self.status()
        mesh = status["mesh"]
        self.home = str(status["node_id"])
        """The node id of its host, as programs and people see it."""
        self.first = "" if mesh is None else str(mesh["node_id"])
        """Its node id in the mesh, until it was declared dead."""

    def serves(self) -> bool:
        return any("serves" in line for line in self.program.lines)

    def status(self) -> dict[str, Any]:
        before = len(self.asker.lines)
        self.asker.tell("status")
        until(lambda: len(self.asker.lines) > before, f"{self.host.name} answers: {self.asker}")
        found: dict[str, Any] = json.loads(self.asker.lines[before])
        assert "processes" in found, f"{found.get('error', 'no peer is there')}: {self.program}"
        return found

    def mesh(self) -> dict[str, Any]:
        mesh: dict[str, Any] = self.status()["mesh"]
        return mesh

    def states(self) -> dict[str, str]:
        """Node id -> state, as this peer sees it."""
        return {member["node_id"]: member["state"] for member in self.mesh()["members"]}

    def alive(self) -> set[str]:
        return {node for node, state in self.states().items() if state == "alive"}

    def living(self) -> set[str]:
        """Those that nobody has declared dead; a suspect may be well."""
        return {node for node, state in self.states().items() if state in ("alive", "suspect")}

    def logged(self, text: str) -> int:
        """How many lines of its log have this in them."""
        return sum(text in line for line in list(self.program.lines))

    def stop(self) -> None:
        told = self.host.run(*CLI, "stop", **self.environment)
        assert "stopped" in told, told
        assert self.program.wait() == 0, self.program


def agree(*peers: Peer) -> None:
    """Wait until each of these sees just these, alive."""

    def same() -> bool:
        meshes = [peer.mesh() for peer in peers]
        nodes = {mesh["node_id"] for mesh in meshes}
        return all(
            {member["node_id"] for member in mesh["members"] if member["state"] in ("alive", "suspect")} == nodes
            for mesh in meshes
        )

    until(same, "all see all, and nobody else: " + "\n".join(repr(peer.program) for peer in peers))
