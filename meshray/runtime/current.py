"""What runs in this thread or coroutine: see `context.TaskContext`. All empty in a driver."""

from __future__ import annotations


class Surroundings:
    """What is the same for all that one worker runs, or one actor. Nobody changes the values: they are shared."""

    __slots__ = ("actor_id", "actor_methods", "actor_name", "gpu_ids", "resources", "restarted")

    def __init__(self) -> None:
        self.actor_id = b""
        self.actor_name = ""
        self.actor_methods = b""
        self.resources: dict[str, float] = {}
        self.gpu_ids: list[int] = []
        self.restarted = False


NOWHERE = Surroundings()


class Current:
    """One task or call. Made for every call of an actor, so it holds little."""

    __slots__ = ("around", "cancelled", "depth", "task_id", "task_name")

    def __init__(
        self, around: Surroundings = NOWHERE, task_id: bytes = b"", task_name: str = "", depth: int = 0
    ) -> None:
        self.around = around
        self.task_id = task_id
        self.task_name = task_name
        self.depth = depth  # of what this submits
        self.cancelled = False

    @property
    def actor_id(self) -> bytes:
        return self.around.actor_id

    @property
    def actor_name(self) -> str:
        return self.around.actor_name

    @property
    def actor_methods(self) -> bytes:
        return self.around.actor_methods

    @property
    def resources(self) -> dict[str, float]:
        return self.around.resources

    @property
    def gpu_ids(self) -> list[int]:
        return self.around.gpu_ids

    @property
    def restarted(self) -> bool:
        return self.around.restarted
