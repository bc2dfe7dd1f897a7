from __future__ import annotations

import logging
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import meshray as ray
from meshray import context
from meshray.api import lifecycle
from meshray.options import InitSettings
from tests.api.fake import FakeRuntime


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[InitSettings]]:
    """`init` attaches fakes; the list holds the settings of each."""
    seen: list[InitSettings] = []

    def attach(settings: InitSettings) -> FakeRuntime:
        seen.append(settings)
        return FakeRuntime()

    module = types.ModuleType("meshray.runtime.attach")
    module.attach = attach  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "meshray.runtime.attach", module)
    monkeypatch.delenv("MESHRAY_ADDRESS", raising=False)
    yield seen
    ray.shutdown()
    context.set_runtime(None)


def test_init_gives_the_settings_on(attached: list[InitSettings]) -> None:
    ray.init(
        "local",
        num_cpus=2,
        num_gpus=1,
        resources={"disk": 1.5},
        labels={"zone": "a"},
        object_store_memory=10**8,
        namespace="mine",
        runtime_env={"env_vars": {"A": "1"}},
        log_to_driver=False,
        _system_config={"ignored": True},
    )
    assert attached == [
        InitSettings(
            address="local",
            num_cpus=2,
            num_gpus=1,
            resources={"disk": 1.5},
            labels={"zone": "a"},
            object_store_memory=10**8,
            namespace="mine",
            env_vars=(("A", "1"),),
            log_to_driver=False,
        )
    ]
    assert attached[0].shapes_a_peer
    assert not InitSettings(address="local", namespace="mine").shapes_a_peer


def test_init_shutdown_and_again(attached: list[InitSettings]) -> None:
    assert not ray.is_initialized()
    ray.init()
    assert ray.is_initialized()
    running = context.runtime()
    ray.shutdown()
    ray.shutdown()
    assert not ray.is_initialized()
    assert isinstance(running, FakeRuntime)
    assert running.closed == 1
    ray.init()
    assert len(attached) == 2


def test_init_twice(attached: list[InitSettings]) -> None:
    first = ray.init()
    with pytest.raises(RuntimeError, match="ignore_reinit_error"):
        ray.init()
    assert ray.init(ignore_reinit_error=True) == first
    assert len(attached) == 1


def test_the_context_is_a_mapping_and_a_manager(attached: list[InitSettings]) -> None:
    with ray.init() as facts:
        running = context.runtime()
        assert facts["node_id"] == running.process_id[:8].hex()
        assert set(facts) == {"node_id", "job_id", "namespace"}
        assert len(facts) == 3
        assert ray.is_initialized()
    assert not ray.is_initialized()
    with pytest.raises(ZeroDivisionError), ray.init():
        _ = 1 / 0
    assert not ray.is_initialized()


def test_everything_else_begins_by_itself(attached: list[InitSettings]) -> None:
    assert ray.get(ray.put(1)) == 1
    assert attached == [InitSettings()]


def test_errors_of_attaching_come_out_and_leave_nothing(
    attached: list[InitSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(settings: InitSettings) -> FakeRuntime:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(sys.modules["meshray.runtime.attach"], "attach", refuse)
    with pytest.raises(ConnectionError) as caught:
        ray.init("auto")
    assert [frame.name for frame in caught.traceback] == ["test_errors_of_attaching_come_out_and_leave_nothing"]
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"num_cpus": -1}, ValueError),
        ({"num_cpus": "2"}, TypeError),
        ({"num_gpus": True}, TypeError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"resources": 5}, TypeError),
        ({"labels": {"a": 1}}, TypeError),
        ({"labels": "a"}, TypeError),
        ({"object_store_memory": 0}, ValueError),
        ({"object_store_memory": "1GB"}, TypeError),
        ({"namespace": ""}, ValueError),
        ({"namespace": 5}, TypeError),
        ({"runtime_env": {"pip": ["x"]}}, NotImplementedError),
        ({"runtime_env": {"env_vars": {"A": 1}}}, TypeError),
        ({"log_to_driver": 1}, TypeError),
        ({"address": 5}, TypeError),
        ({"address": "somewhere"}, ValueError),
        ({"address": "ray://host:1"}, ValueError),
        ({"address": "host:x"}, ValueError),
        ({"num_cpu": 1}, ValueError),
    ],
    ids=str,
)
def test_wrong_arguments(attached: list[InitSettings], arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        ray.init(**arguments)
    assert not attached


def test_a_keyword_with_a_typo_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"'num_cpu' for init\. Valid ones are: address, .*num_cpus, .*runtime_env\.$"):
        ray.init(num_cpu=1)


def test_the_address_comes_from_the_environment(
    attached: list[InitSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MESHRAY_ADDRESS", str(tmp_path))
    ray.init()
    ray.shutdown()
    ray.init("local")
    ray.shutdown()
    monkeypatch.setenv("MESHRAY_ADDRESS", "")
    ray.init()
    assert [settings.address for settings in attached] == [str(tmp_path), "local", None]


@pytest.mark.parametrize(
    ("address", "seeds"),
    [("desk:7637", ["desk:7637"]), ("[fd00::1]:7637,10.0.0.1:80", ["[fd00::1]:7637", "10.0.0.1:80"])],
)
def test_the_address_may_name_members(attached: list[InitSettings], address: str, seeds: list[str]) -> None:
    ray.init(address)
    assert attached[0].seeds == seeds
    assert all(not InitSettings(address=other).seeds for other in (None, "local", "auto", "/run/a:1/b"))


def test_inside_a_task(fake: FakeRuntime, caplog: pytest.LogCaptureFixture) -> None:
    fake.is_driver = False
    with pytest.raises(RuntimeError, match='inside a task.*under `if __name__ == "__main__":`'):
        ray.init()
    ray.init(ignore_reinit_error=True)
    ray.shutdown()
    assert fake.closed == 0
    assert "does nothing" in caplog.text
    assert ray.is_initialized()


def test_logging_and_the_dashboard(attached: list[InitSettings], caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("meshray")
    before = logger.level
    try:
        ray.init(include_dashboard=True, dashboard_port=8265, logging_level="error", logging_format="%(message)s")
        ray.shutdown()
        ray.init(include_dashboard=False, logging_format="* %(message)s")
        assert "no dashboard" not in caplog.text  # the level was set before
        assert logger.level == logging.ERROR
        assert [each.get_name() for each in logger.handlers].count("meshray.init") == 1
    finally:
        logger.setLevel(before)
        for handler in list(logger.handlers):
            if handler.get_name() == "meshray.init":
                logger.removeHandler(handler)


IN_A_NEW_INTERPRETER = """
import os, sys, types
sys.modules["meshray.runtime.attach"] = module = types.ModuleType("attach")
from tests.api.fake import FakeRuntime
class Loud(FakeRuntime):
    def shutdown(self):
        print("closed by", "the driver" if os.getpid() == driver else "a child", flush=True)
module.attach = lambda settings: Loud()
driver = os.getpid()
import meshray
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent.parent
    return subprocess.run(
        [sys.executable, "-c", IN_A_NEW_INTERPRETER + program],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "1 / 0", "raise KeyboardInterrupt"])
def test_a_program_that_forgets_to_shut_down(ending: str) -> None:
    assert run(f"meshray.init()\n{ending}").stdout == "closed by the driver\n"


def test_more_ctrl_c_while_the_interpreter_ends() -> None:
    """No traceback of ours follows what the program has said itself."""
    program = """
closing = Loud.shutdown
def shutdown(self):
    closing(self)
    raise KeyboardInterrupt
Loud.shutdown = shutdown
meshray.init()
sys.exit(3)
"""
    ended = run(program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "closed by the driver\n", "")


def test_nothing_begins_while_the_interpreter_ends() -> None:
    program = """
class Late:
    def __del__(self):
        try:
            meshray.put(1)
        except RuntimeError as error:
            print(error, flush=True)
late = Late()
meshray.init()
"""
    assert run(program).stdout == "closed by the driver\nthe interpreter is shutting down, and the mesh is gone\n"


FORK = """
meshray.init()
ref = meshray.put(1)
sys.stdout.flush()
child = os.fork()
if child == 0:
    try:
        print("initialised:", meshray.is_initialized())
        meshray.get(ref)
    except RuntimeError as error:
        print("error:", error)
    meshray.init()
    print(meshray.get(meshray.put(2)), flush=True)
    sys.exit(0)
os.waitpid(child, 0)
print("parent:", meshray.get(ref), flush=True)
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told_and_can_begin_anew() -> None:
    lines = run(FORK).stdout.splitlines()
    assert lines[0] == "initialised: False"
    assert lines[1].startswith("error: process ")
    assert "belong to the parent" in lines[1]
    assert lines[2:] == ["2", "closed by a child", "parent: 1", "closed by the driver"]


def test_importing_is_light() -> None:
    heavy = ["zmq", "numpy", "psutil", "zeroconf", "click", "cloudpickle", "asyncio"]
    root = Path(__file__).parent.parent.parent
    program = f"import sys, meshray; print([name for name in {heavy} if name in sys.modules])"
    alone = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert alone.stdout.strip() == "[]"


def test_the_hook_for_forks_does_nothing_without_a_mesh() -> None:
    lifecycle._in_forked_child()
    assert not ray.is_initialized()
    assert context._initialise is lifecycle._auto_init


def test_warnings_say_whose_they_are_where_nothing_is_configured(
    attached: list[InitSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger, root = logging.getLogger("meshray"), logging.getLogger()
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(root, "handlers", [])
    for _ in range(2):
        ray.shutdown()
        ray.init()
    logger.info("a detail")
    logger.warning("a thing of %s", "note")
    assert capsys.readouterr().err == "meshray: a thing of note\n"
    heard: list[str] = []
    own = logging.Handler()
    monkeypatch.setattr(own, "emit", lambda record: heard.append(record.getMessage()))
    root.addHandler(own)
    logger.warning("another")
    assert heard == ["another"]
    assert capsys.readouterr().err == "", "the program shows it as it likes"
