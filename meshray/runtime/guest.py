"""The private peer of `init("host:port")`: a guest that joins a mesh through that member.

It brings nothing along but a store for what its program puts and gets."""

from __future__ import annotations

import ipaddress
import os

from meshray import meshkey
from meshray.errors import AuthenticationError
from meshray.launch import MeshSettings, PeerSettings
from meshray.options import InitSettings
from meshray.seeds import parse_seed


def guest_settings(settings: InitSettings, preset: str) -> PeerSettings:
    """How it is started.

    Raises `ValueError` for resources, `AuthenticationError` without a key, `MeshKeyError` for one that is damaged.
    """
    _check(settings)
    return PeerSettings(
        num_cpus=0,
        num_gpus=0,
        resources={"memory": 0},
        object_store_memory=settings.object_store_memory,
        driver_pid=os.getpid(),
        preset=preset,
        mesh=_mesh_settings(settings.seeds),
    )


def _check(settings: InitSettings) -> None:
    """A guest brings nothing but its program, and the key."""
    if any(part is not None for part in (settings.num_cpus, settings.num_gpus, settings.resources, settings.labels)):
        raise ValueError(
            f"init({settings.address!r}) joins as a guest, without resources of its own: leave out num_cpus, num_gpus, "
            "resources and labels. To share this host's, run `meshray start` here, and init() without an address"
        )
    if not meshkey.is_here():
        raise AuthenticationError(
            f"init({settings.address!r}) needs the key of that mesh, and this host has none: bring it from a member "
            "(`meshray token | ssh THIS_HOST meshray join`)"
        )
    meshkey.load()  # what is wrong with it is told here


def _mesh_settings(seeds: list[str]) -> MeshSettings:
    """Members of this very host may listen on loopback alone, and then can answer there alone."""
    hosts = {parse_seed(seed).host for seed in seeds}
    bind = []
    if hosts <= {"localhost"} or all(_is_loopback(host) for host in hosts):
        bind = ["::1" if all(":" in host for host in hosts) else "127.0.0.1"]
    return MeshSettings(seeds=seeds, bind=bind, port=0, guest=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
