"""The mesh in `meshray status`, for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from meshray.observe.notes import printable

Duration = Callable[[float], str]
Amount = Callable[[str, float], str]

DEAD_SHOWN_MAX = 5
MEMBERS_SHOWN_MAX = 100
APART_SHOWN_MAX = 5

RECENT_S = 600.0
"""What was refused is shown for so long: what causes it goes on, or is over."""

BROKEN_OFF = "silent or broken off"  # `transport.mesh_port` has it, and ZeroMQ takes long to load


def describe_mesh(mesh: dict[str, Any], duration: Duration, amount: Amount) -> list[str]:
    """Lines about the mesh; `duration` and `amount` write a time span and a quantity of a resource by name."""
    members = mesh["members"]
    living = [member for member in members if member["state"] in ("alive", "suspect")]
    dead = [member for member in members if member["state"] not in ("alive", "suspect") and _was_met(member)]
    places = ", ".join(mesh["listens"]) or "no address: it is cut off"
    count = "1 member" if len(living) == 1 else f"{len(living)} members"
    lines = [f"Mesh {mesh['mesh_id']}: {count}; this one listens at {places}"]
    shown = living[:MEMBERS_SHOWN_MAX] + dead[:DEAD_SHOWN_MAX]
    lines += aligned([_row(member, duration, amount) for member in shown])
    if len(living) + len(dead) > len(shown):
        lines.append(f"  and {len(living) + len(dead) - len(shown)} more")
    if mesh["next_key_id"]:
        lines.append(f"  keys: {mesh['next_key_id']} is staged here; `meshray key switch` goes on")
    if mesh["other_key"]:
        lines.append(f"  keys: {describe_other_key(mesh['other_key'], len(living) == 1)}")
    if mesh["discovery_trouble"]:
        lines.append(f"  discovery: {printable(mesh['discovery_trouble'])}")
    apart = list(mesh["no_link"].items())
    lines += [f"  no link with {address}: {printable(why)}" for address, why in apart[:APART_SHOWN_MAX]]
    if len(apart) > APART_SHOWN_MAX:
        lines.append(f"  and none with {len(apart) - APART_SHOWN_MAX} more")
    for title, which in (("refused here", "refused"), ("refused there", "refused_there")):
        recent = [
            f"{mesh[which][reason]} {reason} (last {duration(ago_s)} ago)"
            for reason, ago_s in sorted(recent_refusals(mesh, which).items())
            if reason != BROKEN_OFF  # any connection that comes to look: a port scan, the doctor of another member
        ]
        if recent:
            lines.append(f"  {title}: {printable(', '.join(recent))}")
    if mesh["dropped_records"]:
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(mesh["dropped_records"].items()))
        lines.append(f"  records dropped: {printable(told)}")
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns as wide as what is in them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _was_met(member: dict[str, Any]) -> bool:
    """Not one that was gone before this peer joined: of that others have told the id alone, a riddle here."""
    return bool(member["name"] != member["node_id"])


def recent_refusals(mesh: dict[str, Any], which: str) -> dict[str, float]:
    """Reason -> how many seconds ago it was the last time; what is over for long is not told. `which`: "refused", by
    this peer, or "refused_there"."""
    return {reason: ago_s for reason, ago_s in mesh[f"{which}_ago_s"].items() if ago_s < RECENT_S}


def describe_other_key(peers: int, alone: bool) -> str:
    """What it means that records of this mesh are heard under a key that is not here."""
    who = "a peer of this mesh is" if peers == 1 else f"{peers} peers of this mesh are"
    if alone:
        return (
            f"{who} heard under another key: it was changed without this host, it seems. On a member: "
            "`meshray token | ssh THIS_HOST meshray join --replace`"
        )
    return (
        f"{who} heard under another key: away when it was changed, it seems. For each: "
        "`meshray token | ssh OTHER meshray join --replace`"
    )


def _row(member: dict[str, Any], duration: Duration, amount: Amount) -> tuple[str, ...]:
    alive = "leaves" if member["leaving"] else "alive"
    state = f"{alive if member['state'] == 'alive' else member['state']} {duration(member['since_s'])}"
    if member["is_self"]:
        trip = "this one"
    elif member["state"] in ("dead", "left"):
        trip = ""
    elif not member["reachable"]:
        trip = "not reachable"
    elif member["round_trip_s"] is None:
        trip = "?"
    else:
        trip = f"{member['round_trip_s'] * 1000:.1f} ms"
    python = f"Python {member['python']}" if member["python"] else ""
    if member["incompatible"]:
        python += " (another version: gets no closures)"
    about = member["reason"] if member["state"] == "dead" else _resources(member, amount)
    home = member["home"]  # not known of one that has ended: that of its last life is another id, and a riddle here
    said = (member["name"], home, state, trip, about, member["version"], python)
    return tuple(map(printable, said))  # some of it is in the words of others


def _resources(member: dict[str, Any], amount: Amount) -> str:
    total, used = member["total"], member["used"]
    names = sorted((name for name in total if name != "object_store_memory"), key=lambda name: (
        ("CPU", "GPU", "memory").index(name) if name in ("CPU", "GPU", "memory") else 3, name))  # fmt: skip
    shown = ["guest"] if member["guest"] else []
    shown += [f"{name} {amount(name, used.get(name, 0.0))}/{amount(name, total[name])}" for name in names]
    if member["store_total_bytes"]:
        in_store, room = member["store_used_bytes"], member["store_total_bytes"]
        shown.append(f"store {amount('store', in_store)}/{amount('store', room)}")
    return ", ".join(shown)
