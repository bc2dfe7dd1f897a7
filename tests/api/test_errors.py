from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import meshray.exceptions
from meshray import errors
from meshray.errors import MeshrayError, TaskError, task_error

CLASSES = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, MeshrayError) and each is not TaskError
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_survives_a_pickle_with_its_attributes(cls: type[MeshrayError]) -> None:
    error: Any = cls("it broke", actor_id="ab", count=3)
    again: Any = pickle.loads(pickle.dumps(error))
    assert str(again) == "it broke"
    assert again.details == {"actor_id": "ab", "count": "3"}
    assert again.actor_id == "ab"
    assert str(copy.copy(error)) == "it broke"
    assert type(again) is cls


def test_the_hierarchy_is_that_of_the_specification() -> None:
    tree = {
        "TaskError": "MeshrayError",
        "TaskCancelledError": "MeshrayError",
        "WorkerCrashedError": "MeshrayError",
        "ActorError": "MeshrayError",
        "ActorDiedError": "ActorError",
        "ActorUnavailableError": "ActorError",
        "GetTimeoutError": "MeshrayError",
        "ObjectLostError": "MeshrayError",
        "OwnerDiedError": "ObjectLostError",
        "ObjectReconstructionFailedError": "ObjectLostError",
        "ObjectFreedError": "ObjectLostError",
        "ObjectStoreFullError": "MeshrayError",
        "OutOfDiskError": "MeshrayError",
        "OutOfMemoryError": "MeshrayError",
        "RuntimeEnvSetupError": "MeshrayError",
        "NodeDiedError": "MeshrayError",
        "PendingCallsLimitExceeded": "MeshrayError",
        "TaskUnschedulableError": "MeshrayError",
        "ActorUnschedulableError": "MeshrayError",
        "AuthenticationError": "MeshrayError",
        "ActorAlreadyExistsError": "MeshrayError",
        "AsyncioActorExit": "MeshrayError",
        "TaskPlacementGroupRemoved": "MeshrayError",
        "ActorPlacementGroupRemoved": "MeshrayError",
    }
    for name, base in tree.items():
        assert getattr(errors, name).__bases__[0].__name__ == base
        assert getattr(meshray.exceptions, name) is getattr(errors, name)
    assert meshray.exceptions.RayError is MeshrayError
    assert meshray.exceptions.RayTaskError is TaskError
    assert meshray.exceptions.RayActorError is errors.ActorError
    assert meshray.exceptions.PeerDiedError is meshray.exceptions.NodeDiedError
    assert issubclass(errors.GetTimeoutError, TimeoutError)
    assert issubclass(errors.ActorAlreadyExistsError, ValueError)


class NeedsArguments(Exception):
    """As programs write them: the constructor takes other things than `args`."""

    __slots__ = ("slot",)

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.slot = reason

    def __str__(self) -> str:
        raise RuntimeError("a __str__ that fails")


class WithNew(ValueError):
    def __new__(cls, first: int, second: int) -> WithNew:
        return super().__new__(cls, first, second)

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first, second)


class Clashing(Exception):
    """Its attributes have the names of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.pid = 7
        self.details = ["mine"]
        self.cause = "an earlier one"


class Rude(Exception):
    def __init_subclass__(cls) -> None:
        raise RuntimeError("no subclasses")


def dual(cause: BaseException) -> TaskError:
    return task_error("Kind: text", "the remote traceback", {"task_name": "f", "pid": "1", "host": "h"}, cause)


@pytest.mark.parametrize("again", [False, True], ids=["fresh", "pickled"])
@pytest.mark.parametrize(
    "cause",
    [
        ValueError("boom"),
        FileNotFoundError(2, "no such file", "/nowhere"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        KeyError("k"),
        WithNew(1, 2),
        ExceptionGroup("several", [ValueError(1), TypeError(2)]),
        errors.ActorDiedError("gone", actor_id="ff"),
        StopIteration(5),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_a_task_error_is_also_of_the_users_type(cause: Exception, again: bool) -> None:
    error = dual(cause)
    if again:
        error = pickle.loads(pickle.dumps(error))
    assert isinstance(error, TaskError)
    assert isinstance(error, type(cause))
    assert str(error) == "Kind: text\n\nthe remote traceback"
    assert type(error.cause) is type(cause)
    assert error.args == cause.args or isinstance(cause, ExceptionGroup)
    assert (error.task_name, error.pid, error.host) == ("f", "1", "h")
    with pytest.raises(type(cause)):
        raise error


def test_state_of_the_users_exception_shows_on_the_dual() -> None:
    error = dual(FileNotFoundError(2, "no such file", "/nowhere"))
    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.filename) == (2, "/nowhere")
    needy = dual(NeedsArguments(3, reason="because"))
    assert isinstance(needy, NeedsArguments)
    assert (needy.code, needy.slot) == (3, "because")
    assert "Kind: text" in str(needy)
    group = dual(ExceptionGroup("several", [ValueError(1)]))
    with pytest.raises(ExceptionGroup) as caught:
        raise group
    assert caught.group_contains(ValueError)


def test_the_users_attributes_win_except_cause() -> None:
    error: Any = dual(Clashing())
    assert error.pid == 7
    assert error.details == ["mine"]
    assert Clashing in type(error).__mro__
    assert isinstance(error.cause, Clashing)
    again: Any = pickle.loads(pickle.dumps(error))
    assert again.pid == 7
    assert again.details == ["mine"]


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), Rude()], ids=repr)
def test_types_that_cannot_or_must_not_be_joined_stay_causes(cause: BaseException) -> None:
    error = dual(cause)
    assert type(error) is TaskError
    assert error.cause is cause


def test_dual_types_are_made_once() -> None:
    assert type(dual(ValueError(1))) is type(dual(ValueError(2)))
    assert type(dual(ValueError(1))).__name__ == "TaskError(ValueError)"
