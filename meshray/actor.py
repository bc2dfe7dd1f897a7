"""What code inside an actor calls, and the types of actors for annotations."""

from __future__ import annotations

from typing import Never

from meshray import context
from meshray.api.actors import ActorClass, ActorHandle, ActorMethod

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor"]


def exit_actor() -> Never:
    """End the actor that this code runs in, after the calls that it has begun; it does not restart.

    Raises `TypeError` outside of an actor.
    """
    runtime = context.current_runtime()
    if runtime is None or not runtime.current().actor_id:
        raise TypeError("exit_actor() is for code inside an actor; this code runs in none")
    runtime.exit_actor()
    raise AssertionError("the runtime's exit_actor came back")
