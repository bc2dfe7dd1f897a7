"""The road's shell: carries messages between the mesh, the processes of this host, and the peer's own cores.

A turn: what the mesh tells goes to `core.road`, whose effects are performed; then what is to leave for other hosts is
given to the links, as far as their windows allow, and pieces of values as well (`peer.copies`); then it leaves. Last is
written what has come of values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from meshray.core.placement import Member
from meshray.core.ways import Parcel
from meshray.ids import NODE_BYTES, peer_of
from meshray.peer.actors import add_member, drop_member
from meshray.peer.copies import CopyHands
from meshray.peer.mesh_events import (
    GOODBYE,
    Came,
    LifeOver,
    LifeSilent,
    LifeThere,
    LinkCut,
    LinkThere,
    LoadTold,
    MeshEvent,
    OwnEnd,
)
from meshray.peer.parts import Parts
from meshray.wire.envelopes import enclose, enclosed, opened
from meshray.wire.messages import Pull
from meshray.wire.peers import Plane

if TYPE_CHECKING:
    from meshray.peer.mesh import Mesh


class Traffic:
    """See the head of this file. `settle` performs the effects of the cores."""

    def __init__(self, parts: Parts, copies: CopyHands, settle: Callable[[float], None]) -> None:
        self._parts = parts
        self._copies = copies
        self._road = parts.cores.road
        self._settle = settle

    def turn(self, ready: set[int], now: float) -> None:
        """`ready`: the descriptors that are readable."""
        mesh = self._parts.mesh
        if mesh is None:
            return
        if mesh.is_due(ready, now):
            mesh.turn(now)
        for event in mesh.take_events():
            self._on_event(event, now)
            self._settle(now)  # what one says may introduce the next
        self._road.repay(self._parts.endpoint.is_clogged)
        sent = self._copies.turn(mesh, now)
        self._settle(now)
        while self._carry(mesh, now):
            sent = True
            self._settle(now)  # what follows may be for other hosts, too
        if sent:
            mesh.flush(now)
        if self._copies.finish(now):
            sent = False
            self._settle(now)
            while self._carry(mesh, now):
                sent = True
                self._settle(now)
            if sent:
                mesh.flush(now)

    def _on_event(self, event: MeshEvent, now: float) -> None:
        road = self._road
        if isinstance(event, Came):
            letter = opened(event.payload)
            if letter is None:
                road.counters["messages that are none"] += 1
            else:
                road.on_arrived(event.life, letter, now)
        elif isinstance(event, LifeThere):
            road.on_life(event.life, event.home, event.number, now)
            self._meet(event.home, now)
        elif isinstance(event, LinkThere):
            home = road.on_linked(event.life, now)
            if home is not None:
                self._meet(home, now)
        elif isinstance(event, LoadTold):
            self._on_load(event, now)
        elif isinstance(event, LifeSilent):
            road.on_silent(event.life, event.name, event.silent)
        elif isinstance(event, LifeOver):
            road.on_life_over(event.life, event.why)
            self._drop_members(event.why, now)
        elif isinstance(event, LinkCut):
            road.on_cut(event.life, event.why)
        else:
            assert isinstance(event, OwnEnd), event
            road.on_own_end(event.why)
            self._drop_members(event.why, now)

    def _meet(self, home: bytes, now: float) -> None:
        """That host is there, unless it is out of reach. A repeat changes nothing."""
        self._settle(now)  # an earlier life of it may be over, or the link to it
        if self._road.is_there(home):
            add_member(self._parts, peer_of(home))

    def _drop_members(self, why: str, now: float) -> None:
        """Who is there no more? The road says so only of those with whom this host has dealt."""
        self._settle(now)
        leases, road = self._parts.cores.leases, self._road
        for peer in self._parts.cores.naming.members():
            if not self._road.is_there(peer[:NODE_BYTES]):
                drop_member(self._parts, peer, why == GOODBYE, now)
        placement = leases.placement
        for home in [home for home in placement.members if not road.is_there(home)]:
            leases.on_member_gone(home, why, now, road.is_out_of_reach(home))
        for home in [home for home in placement.out_of_reach if road.life_of(home) is None]:
            leases.on_member_gone(home, why, now)

    def _on_load(self, event: LoadTold, now: float) -> None:
        """What a member has, and how much of it is in use: for placement."""
        load, leases = event.load, self._parts.cores.leases
        if self._road.life_of(load.home) != event.life or not self._road.is_there(load.home):
            return
        address = event.addresses[0] if event.addresses else ""
        member = Member(
            load.home, event.name, load.total, load.used, load.labels, compatible=event.compatible, address=address,
            guest=load.guest,
        )  # fmt: skip
        leases.on_member(member, now)
        if load.leaving:
            leases.on_member_leaves(load.home, now)

    def _carry(self, mesh: Mesh, now: float) -> bool:
        """Give to the links what may leave; whether anything did, or was found to be impossible."""
        carried = False
        road, window = self._road, self._parts.config.road_window_bytes
        for home in road.laden():
            life = road.life_of(home)
            assert life is not None, f"{home.hex()} is not there"
            while True:
                relays = mesh.portion(life, Plane.CONTROL, window) > 0
                parcel = road.next(home, mesh.takes(life, Plane.CONTROL), relays)
                if parcel is None:
                    break
                carried = True
                if not mesh.send(life, self._plane_of(parcel), _payload(parcel), now):
                    road.on_cut(life, "no link to it can be made")
                    break
        return carried

    def _plane_of(self, parcel: Parcel) -> Plane:
        """All that decides goes by itself. But who asks for a value of several pieces does so on the plane on which
        they come: what asks for the next piece then acknowledges the last one, and both ends turn once for it. It may
        wait behind pieces that go the other way, for no longer than the window of what was asked for covers."""
        message = parcel.message
        if type(message) is Pull and message.place.size > self._parts.config.fetch_piece_bytes:
            return Plane.BULK
        return Plane.CONTROL


def _payload(parcel: Parcel) -> bytes | bytearray:
    message = parcel.message
    if isinstance(message, bytes):
        return enclose(parcel.destination, parcel.source, message)
    return enclosed(parcel.destination, parcel.source, message)
