"""The driver packs its own folder when its peer asks, and not before."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from meshray import context
from meshray.errors import ObjectStoreFullError
from meshray.refs import ObjectRef
from meshray.runtime import driver_code
from meshray.runtime.bundle.archive import content_hash, unpack
from meshray.runtime.client import Client
from meshray.runtime.driver_code import DriverCode
from meshray.wire import messages as m
from tests.integration.programs import python, run, write
from tests.until import until


class Asking:
    """A peer that asks, and what it hears."""

    def __init__(self, folder: Path) -> None:
        client = context.current_runtime()
        assert isinstance(client, Client)
        self.client = client
        self.engine = client.engine
        self.said: list[m.CodeReady] = []
        self._send = self.engine.send
        self.engine.send = self.send  # type: ignore[method-assign]
        self.code = DriverCode(client, m.JobInfo(b"", "", "", [str(folder)], str(folder), "", ""))

    def send(self, to: bytes, message: Any) -> None:
        if isinstance(message, m.CodeReady):
            assert to == self.engine.peer
            self.said.append(message)
        else:
            self._send(to, message)

    def begin(self, lasting: bool = False) -> None:
        """Ask, without waiting for the answer."""
        raised = self.engine.pump.enter()
        try:
            self.code.on_wanted(lasting)
        finally:
            self.engine.pump.leave(raised)

    def ask(self) -> m.Code:
        before = len(self.said)
        self.begin()
        until(lambda: len(self.said) > before, "it answers")
        return self.said[-1].code

    def close(self) -> None:
        self.code.close()
        del self.engine.send  # type: ignore[method-assign]


@pytest.fixture
def asking(mesh: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "helper.py").write_text("x = 1\n")
    found = Asking(folder)
    yield found
    found.close()


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_the_folder_is_an_object_that_others_may_fetch(
    asking: Asking, mesh: ModuleType, tmp_path: Path, size: int
) -> None:
    (tmp_path / "program" / "data.bin").write_bytes(bytes(size))
    code = asking.ask()
    assert asking.ask() is code, "the same answer again"
    archive = mesh.get(ObjectRef.from_binary(code.object_id))
    assert content_hash(archive) == code.hash
    assert len(memoryview(archive)) == code.size
    unpack(archive, tmp_path / "copy", 10)
    assert (tmp_path / "copy" / "data.bin").stat().st_size == size
    assert code.roots == [str(tmp_path / "program")]
    record = asking.engine.records.table[code.object_id]
    assert record.promoted
    assert record.count > 0


def test_a_store_without_room(
    asking: Asking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(value: object) -> Any:
        raise ObjectStoreFullError("the store is full")

    monkeypatch.setattr(asking.client, "put", full)
    with caplog.at_level(logging.WARNING, "meshray"):
        code = asking.ask()
    assert code.hash == b""
    assert "do not go to other hosts: ObjectStoreFullError: the store is full" in caplog.text


def held_up(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What is packed has no room in the store before this is set."""
    may_go_on = threading.Event()
    put = asking.client.put

    def slowly(value: object) -> Any:
        may_go_on.wait()
        return put(value)

    monkeypatch.setattr(asking.client, "put", slowly)
    return may_go_on


def test_a_program_with_detached_actors_answers_before_it_ends(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    asking.code.finish()
    may_go_on = held_up(asking, monkeypatch)
    asking.begin()
    asking.code.finish()
    assert asking.said == [], "nobody needs it when the program is over"
    asking.begin(lasting=True)
    ending = threading.Thread(target=asking.code.finish)
    ending.start()
    may_go_on.set()
    ending.join()
    assert len(asking.said) == 1


def test_one_that_has_made_its_detached_actor_just_now_is_not_asked_in_vain(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question is on its way yet, and Python begins no threads while it ends."""
    monkeypatch.setattr(asking.client, "has_detached", True)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    asking.code.finish()
    (said,) = asking.said
    assert said.code.hash
    asking.begin(lasting=True)
    assert asking.said == [said, said], "it is answered again, as ever"
    asking.code.finish()
    assert len(asking.said) == 2


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't create new thread at interpreter shutdown")


def test_one_that_is_asked_while_python_ends_answers_that_nothing_goes_along(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    asking.begin()
    assert [said.code for said in asking.said] == [m.Code()]


def test_what_detached_actors_need_is_packed_at_the_very_end(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question has come when no thread could begin any more, but others still ran."""
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    asking.begin(lasting=True)
    asking.begin(lasting=True)
    assert asking.said == []
    asking.code.finish()
    (said,) = asking.said
    assert said.code.hash


def test_what_takes_too_long_at_the_very_end_is_given_up(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    monkeypatch.setattr(driver_code, "LASTING_TIMEOUT_S", -1.0)
    asking.begin(lasting=True)
    asking.code.finish()
    assert asking.said == []


def test_a_folder_that_is_packed_already_is_waited_for_when_an_actor_was_made_just_now(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for because of a task; that it shall last the peer has not said yet."""
    may_go_on = held_up(asking, monkeypatch)
    asking.begin()
    monkeypatch.setattr(asking.client, "has_detached", True)
    ending = threading.Thread(target=asking.code.finish)
    ending.start()
    may_go_on.set()
    ending.join()
    assert len(asking.said) == 1


def test_the_folder_of_a_script_is_known_when_it_has_come_to_its_end(mesh: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "program").mkdir()
    script = write(
        tmp_path / "program" / "script.py",
        """
        import atexit, sys
        import meshray
        from meshray import context

        meshray.init()
        code = context.current_runtime().on_leaving.__self__

        def end():
            assert not hasattr(sys.modules["__main__"], "__file__")
            print(code._pack([])[0].roots)

        atexit.register(end)
        """,
    )
    told = run(*python(script), cwd=tmp_path)
    assert str([str(tmp_path / "program")]) in told


def test_nobody_is_answered_after_the_end(asking: Asking) -> None:
    asking.code.close()
    asking.begin()
    asking.code.close()
    assert asking.said == []


def test_a_program_that_stays_on_its_host_loads_nothing_of_it(tmp_path: Path) -> None:
    script = write(
        tmp_path / "script.py",
        """
        import sys
        import meshray

        @meshray.remote
        def task():
            return 1

        assert meshray.get(task.remote()) == 1
        assert not [name for name in sys.modules if name.startswith("meshray.runtime.bundle")]
        print("done")
        """,
    )
    assert "done" in run(*python(script))
