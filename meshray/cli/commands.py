"""The words and options of the command line."""

from __future__ import annotations

import json
from typing import Any

import click

from meshray import __version__
from meshray.cli import joining, keys, showing, starting, stopping
from meshray.errors import MeshrayError
from meshray.launch import PeerSettings
from meshray.resources import QUANTITY_MAX
from meshray.wire.gossip import NAME_MAX_CHARS


class _Group(click.Group):
    """Errors of ours are messages to people."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MeshrayError as error:
            raise click.ClickException(str(error)) from error


class _JsonObject(click.ParamType[dict[str, Any]]):
    """A JSON object whose values have one type."""

    name = "JSON"

    def __init__(self, values: tuple[type, ...], described: str) -> None:
        self._values = values
        self._described = described

    def convert(
        self, value: str | dict[str, Any], param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        try:
            found = json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is no JSON: {error}", param, ctx)
        if not isinstance(found, dict):
            self.fail(f"{value!r} is no JSON object: write {self._described}", param, ctx)
        for name, entry in found.items():
            if not isinstance(entry, self._values) or isinstance(entry, bool):
                self.fail(f"the value of {name!r} is {entry!r}: write {self._described}", param, ctx)
            if isinstance(entry, int | float) and not 0 <= entry <= QUANTITY_MAX:  # nor NaN
                self.fail(f"the value of {name!r} is {entry!r}: write a quantity", param, ctx)
        return found


class _Name(click.ParamType[str]):
    """A name that other peers can read, and people."""

    name = "NAME"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if len(value) > NAME_MAX_CHARS:
            self.fail(f"it has {len(value)} characters; {NAME_MAX_CHARS} are the most", param, ctx)
        if not value.isprintable():  # nor are bytes that are no UTF-8
            self.fail("it has characters that cannot be printed", param, ctx)
        return value


_RESOURCES = _JsonObject((int, float), '{"name": quantity}')
_LABELS = _JsonObject((str,), '{"name": "text"}')
_QUANTITY = click.FloatRange(min=0, max=1_000_000)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="meshray")
def meshray() -> None:
    """A brokerless peer-to-peer compute mesh for Python."""


@meshray.command()
@click.option("--num-cpus", type=_QUANTITY, help="Default: what affinity and control groups allow.")
@click.option("--num-gpus", type=_QUANTITY, help="Default: what NVML finds.")
@click.option("--resources", type=_RESOURCES, default="{}", help="Custom resources: '{\"disk\": 2}'.")
@click.option("--labels", type=_LABELS, default="{}", help='Labels: \'{"zone": "a"}\'.')
@click.option("--object-store-memory", type=click.IntRange(min=1), metavar="BYTES", help="Room for objects.")
@click.option("--name", type=_Name(), default="", help="Default: the name of the host.")
@click.option("--local", is_flag=True, help="Stay off the network: belong to no mesh.")
@click.option("--new", is_flag=True, help="Make a mesh, whatever others are on the network.")
@click.option("--join", "seeds", default="", metavar="HOST:PORT,...",
              help="Where members are, where multicast fails. @FILE: one per line.")  # fmt: skip
@click.option("--bind", multiple=True, metavar="ADDRESS", help="Listen at this address only; may be repeated.")
@click.option("--port", type=click.IntRange(1, 65535), help="The TCP port.  [default: 7637]")
@click.option("--foreground", is_flag=True, help="Stay, and print to the terminal.")
@click.option("--preset", default="default", hidden=True)
def start(
    num_cpus: float | None,
    num_gpus: float | None,
    resources: dict[str, float],
    labels: dict[str, str],
    object_store_memory: int | None,
    name: str,
    local: bool,
    new: bool,
    seeds: str,
    bind: tuple[str, ...],
    port: int | None,
    foreground: bool,
    preset: str,
) -> None:
    """Start a peer on this host; return when it serves. It joins the mesh whose key this host has, or makes one."""
    settings = PeerSettings(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=resources,
        labels=labels,
        object_store_memory=object_store_memory,
        name=name,
        preset=preset,
        mesh=starting.choose_mesh(local, new, seeds, bind, port),
    )
    starting.start(settings, foreground, new)


@meshray.command()
@click.option("--name", help="The peer to stop, where several run.")
@click.option("--all", "everything", is_flag=True, help="Stop all peers that were started by hand.")
@click.option("--timeout", type=click.FloatRange(min=0), default=10.0, show_default=True, metavar="SECONDS",
              help="How long work may take to end by itself.")  # fmt: skip
def stop(name: str | None, everything: bool, timeout: float) -> None:
    """Stop a peer of this host, and with it what runs there. Ctrl-C while it waits ends the peer at once."""
    if name is not None and everything:
        raise click.UsageError("--name and --all exclude each other.")
    stopping.stop(name, everything, timeout)


@meshray.command()
@click.option("--name", help="Only this peer.")
@click.option("--all", "everything", is_flag=True, help="Also the peers of single programs.")
@click.option("--json", "as_json", is_flag=True, help="A list with one object per peer.")
@click.option("--watch", is_flag=True, help="Again each second, until Ctrl-C.")
@click.pass_context
def status(ctx: click.Context, name: str | None, everything: bool, as_json: bool, watch: bool) -> None:
    """Show the peers of this host, and their mesh. Exit code 1 when none runs, or one does not answer."""
    ctx.exit((showing.watch if watch else showing.show)(name, everything, as_json))


@meshray.command()
@click.option("--json", "as_json", is_flag=True, help="A list with one object per finding.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what is in the way of a mesh here: network, firewall, key, versions, ... Exit code 1 when something is."""
    from meshray.cli.doctor import doctor as run  # loads psutil and mDNS

    ctx.exit(run(as_json))


# -- membership --------------------------------------------------------------------------------------------------------


@meshray.command()
@click.option(
    "--seeds", default="", metavar="HOST:PORT,...", help="Where a mesh is found. Default: this host's addresses."
)
@click.option("--next", "following", is_flag=True, help="Of the staged key, not of the current one.")
def token(seeds: str, following: bool) -> None:
    """Print a token by which another machine joins. It is the key: keep it secret."""
    joining.token(seeds, following)


@meshray.command()
@click.argument("words", nargs=-1, metavar="")
@click.option("--file", metavar="FILE", help="Where the token is. Default: standard input.")
@click.option("--replace", is_flag=True, help="In place of the key that this host has.")
def join(words: tuple[str, ...], file: str | None, replace: bool) -> None:
    """Make this host a member of a mesh, by a token from standard input."""
    if words:
        raise click.UsageError(joining.NO_COMMAND_LINE)
    joining.join(file, replace)


@meshray.group()
def key() -> None:
    """Show and change the mesh key, in two steps: stage, then switch."""


@key.command("show")
@click.option("--all", "everywhere", is_flag=True, help="Ask all members as well.")
def key_show(everywhere: bool) -> None:
    """Show which key and mesh this host has, by their ids."""
    (keys.which if everywhere else keys.show)()


@key.command("new")
def key_new() -> None:
    """Make a mesh, that is its key, and start nothing: for whoever hands it on before the first peer starts."""
    keys.new()


@key.command("stage")
@click.option("--again", is_flag=True, help="Give the key that is staged here to those that lack it.")
@click.option("--here", is_flag=True, help="Make a new key, on this host only.")
@click.option("--file", metavar="FILE", help="Stage the key of this token (- for standard input), on this host only.")
@click.pass_context
def key_stage(ctx: click.Context, again: bool, here: bool, file: str | None) -> None:
    """Give all members the next key, while the current one stays in use. Exit code 1 when not all have it."""
    if again + here + (file is not None) > 1:
        raise click.UsageError("--again, --here and --file exclude one another.")
    if here:
        keys.stage_here()
    elif file is not None:
        keys.stage_given(file)
    else:
        ctx.exit(keys.stage(again))


@key.command("unstage")
def key_unstage() -> None:
    """Forget the next key, on this host only."""
    keys.unstage()


@key.command("switch")
@click.option("--expel", is_flag=True, help="Members that lack the next key are left behind.")
@click.option("--here", is_flag=True, help="On this host only.")
@click.pass_context
def key_switch(ctx: click.Context, expel: bool, here: bool) -> None:
    """Have all members use the next key, and forget the old one. Exit code 1 when not all have followed."""
    if expel and here:
        raise click.UsageError("--expel and --here exclude each other.")
    if here:
        keys.switch_here()
    else:
        ctx.exit(keys.switch(expel))
