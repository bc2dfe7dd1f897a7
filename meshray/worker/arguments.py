"""What an attempt is called with: its arguments unpickled, references at the top level replaced by their values."""

from __future__ import annotations

from typing import Any

from meshray.core.records import Birth, Carrier
from meshray.refs import ObjectRef
from meshray.runtime.client import Client
from meshray.runtime.copies import Lost, NotHere
from meshray.runtime.failures import exception_from_failure
from meshray.wire import messages as m


class Arguments:
    """Of the tasks and calls of one worker. `carrier` is what brought the references inside."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._engine = client.engine

    def of(self, task: m.Task, carrier: Carrier | None) -> tuple[Any, Any]:
        """Positional and keyword arguments of an attempt, references at the top level replaced by their values. Raises
        `Lost` for arguments that cannot be had any more."""
        try:
            return self._load(task, carrier)
        except NotHere:
            pass  # to be brought; what goes wrong then is no consequence of this
        with self._client.waiting.bring([task.args, *task.deps], None):
            return self._load(task, carrier)

    def lasting(self, task: m.Task, carrier: Carrier | None) -> tuple[Any, Any]:
        """The same for an actor, whose calls keep their order: for what is lost it waits until that was made again."""
        while True:
            try:
                return self.of(task, carrier)
            except Lost as lost:
                failures = lost.failures
            places = [dep for dep in task.deps if isinstance(dep, m.Place) and dep in failures]
            if not places:
                raise exception_from_failure(next(iter(failures.values())))
            assert carrier is not None, f"references, and nothing brought them: {task!r}"
            refs = [self._look_elsewhere(place, carrier) for place in places]
            task.deps = [
                m.Borrowed(dep.object_id) if isinstance(dep, m.Place) and dep in places else dep for dep in task.deps
            ]
            self._client.waiting.get(refs, None)

    def _look_elsewhere(self, place: m.Place, carrier: Carrier) -> ObjectRef[Any]:
        """A reference to an argument of which every copy is lost."""
        engine = self._engine
        raised = engine.pump.enter()
        try:
            engine.records.drain()
            record = engine.records.borrow(place.object_id, carrier)
            if record.value is None and not record.owned and not record.fetching:
                record.value = place
            if record.value == place:
                text = f"object {place.object_id.hex()} is lost"
                engine.lost.look_elsewhere(record, m.Failure("ObjectLostError", text))  # if in vain, `get` says so
            return ObjectRef(place.object_id)
        finally:
            engine.pump.leave(raised)

    def _load(self, task: m.Task, carrier: Carrier | None) -> tuple[Any, Any]:
        load = self._client.values.load
        if not task.args:
            return (), {}
        loaded = load(task.args, carrier)
        if len(loaded) == 2:
            return loaded  # type: ignore[no-any-return]
        args, kwargs, positions = loaded
        args = list(args)
        borrowed = [dep.object_id for dep in task.deps if isinstance(dep, m.Borrowed)]
        values = [None if isinstance(dep, m.Borrowed) else load(dep, carrier) for dep in task.deps]
        fetched = iter(self._borrowed(borrowed, carrier) if borrowed else ())
        for position, dep, loaded_one in zip(positions, task.deps, values, strict=True):
            value = next(fetched) if isinstance(dep, m.Borrowed) else loaded_one
            if type(position) is int:
                args[position] = value
            else:
                kwargs[position] = value
        return args, kwargs

    def _borrowed(self, object_ids: list[bytes], carrier: Carrier | None) -> list[Any]:
        """Their values, which come at the same time."""
        self._engine.queue.extend(Birth(object_id, carrier) for object_id in object_ids)
        return self._client.waiting.get([ObjectRef(object_id) for object_id in object_ids], None)
