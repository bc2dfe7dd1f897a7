"""Tasks on real workers: options, returns, nesting, retries, resources, and what code a worker sees."""

from __future__ import annotations

import os
import random
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from meshray.exceptions import WorkerCrashedError
from tests.integration.programs import python, run, write
from tests.until import until

GET_S = 30.0
MESH = {"num_cpus": 2, "num_gpus": 2, "resources": {"disk": 2.0}}


class Again(Exception):
    """Raised by tasks that are to be tried again."""


class AgainToo(Again):
    pass


def count_run(path: str) -> int:
    """How often this was called with `path`, in all processes."""
    with open(path, "a") as file:
        file.write("x")
    return os.path.getsize(path)


# -- returns -----------------------------------------------------------------------------------------------------------


def test_several_returns(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote(num_returns=3)
    def three(how: str) -> Any:
        values = ["a", "b", "c"]
        return {"list": values, "tuple": tuple(values), "generator": (v for v in values), "array": np.arange(3)}[how]

    for how in ("list", "tuple", "generator"):
        assert ray.get(three.remote(how), timeout=GET_S) == ["a", "b", "c"]
    assert ray.get(three.remote("array"), timeout=GET_S) == [0, 1, 2]
    first, _, last = three.remote("list")
    del _
    assert ray.get([last, first], timeout=GET_S) == ["c", "a"]


def test_returns_of_a_wrong_number(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote(num_returns=2)
    def wrong(value: Any) -> Any:
        return value if value != "endless" else iter(int, 1)

    cases: list[tuple[Any, str]] = [
        ([1], "1 value"),
        ([1, 2, 3], "3 values"),
        ("endless", "more values"),
        (7, "one int"),
        (None, "None"),
    ]
    must = r"^ValueError: wrong must return 2 values, for instance as a tuple \(num_returns=2\): it returned"
    for value, text in cases:
        refs = wrong.remote(value)
        for ref in refs:
            with pytest.raises(ValueError, match=f"{must} {text}\n"):
                ray.get(ref, timeout=GET_S)


def test_a_generator_that_fails_raises_its_own_error(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    def values() -> Any:
        yield 1
        raise TypeError("in the generator")

    @ray.remote(num_returns=2)
    def make() -> Any:
        return values()

    with pytest.raises(TypeError, match="in the generator"):
        ray.get(make.remote(), timeout=GET_S)


def test_no_return(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh
    path = tmp_path / "ran"

    @ray.remote(num_returns=0)
    def write() -> int:
        path.write_text("yes")
        return 1

    assert write.remote() is None
    until(path.exists, "the task without a return to run")


# -- names and options -------------------------------------------------------------------------------------------------


def test_a_name_is_seen_in_errors_and_in_the_context(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def task(fail: bool) -> Any:
        if fail:
            raise KeyError("x")
        return ray.get_runtime_context().get_task_name()

    assert ray.get(task.options(name="special").remote(False), timeout=GET_S) == "special"
    assert ray.get(task.remote(False), timeout=GET_S) == "task"
    with pytest.raises(KeyError, match="in special"):
        ray.get(task.options(name="special").remote(True), timeout=GET_S)


def test_environment_variables_of_a_task(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def look() -> str | None:
        return os.environ.get("MESHRAY_TEST_COLOUR")

    def coloured(colour: str) -> Any:
        return look.options(runtime_env={"env_vars": {"MESHRAY_TEST_COLOUR": colour}}).remote()

    refs = [coloured("red"), look.remote(), coloured("blue"), coloured("red")]
    assert ray.get(refs, timeout=GET_S) == ["red", None, "blue", "red"]


# -- nesting -----------------------------------------------------------------------------------------------------------


def test_nested_tasks_and_recursion_of_a_remote_function(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def fibonacci(n: int) -> int:
        if n < 2:
            return n
        return sum(ray.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))

    assert ray.get(fibonacci.remote(6), timeout=GET_S) == 8


def test_a_blocked_get_or_wait_gives_the_cpu_back(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def leaf(n: int) -> int:
        return n

    @ray.remote
    def by_get(n: int) -> int:
        return int(ray.get(leaf.remote(n)))

    @ray.remote
    def by_wait(n: int) -> int:
        ready, _ = ray.wait([leaf.remote(n)])
        return int(ray.get(ready[0]))

    refs = [task.remote(n) for n in range(4) for task in (by_get, by_wait)]
    assert ray.get(refs, timeout=GET_S) == [n for n in range(4) for _ in range(2)]


def test_a_task_that_gets_ready_behind_one_that_waits_for_it(shared_mesh: ModuleType, tmp_path: Path) -> None:
    """Of a function that is known to be quick, so it would be pushed ahead to the worker of the one that waits."""
    ray = shared_mesh

    @ray.remote
    def first_of(value: int, begun: str = "", refs: Any = ()) -> int:
        if begun:
            Path(begun).touch()
        return ray.get(list(refs))[0] if refs else value

    @ray.remote(num_cpus=0)
    def gate(path: str) -> int:
        while not os.path.exists(path):
            time.sleep(0.01)
        return 7

    for _ in range(3):
        ray.get([first_of.remote(number) for number in range(100)], timeout=GET_S)
    late = first_of.remote(gate.remote(str(tmp_path / "gate")))
    waiting = [first_of.remote(0, str(tmp_path / f"begun{number}"), [late]) for number in range(2)]
    until(lambda: (tmp_path / "begun0").exists() and (tmp_path / "begun1").exists(), "both wait")
    (tmp_path / "gate").touch()
    assert ray.get(waiting, timeout=GET_S) == [7, 7]


def test_a_task_behind_one_that_polls_for_it(shared_mesh: ModuleType) -> None:
    """Tasks pushed to a worker behind a long one are given back, or this would never end."""
    ray = shared_mesh

    @ray.remote
    def poll(refs: list[Any]) -> int:
        while not ray.wait(refs, timeout=0)[0]:
            time.sleep(0.001)
        return int(ray.get(refs[0]))

    @ray.remote
    def seven() -> int:
        return 7

    ray.get([seven.remote() for _ in range(20)], timeout=GET_S)  # now it is known to be short, and pushed ahead
    refs = []
    for _ in range(3):
        ref = seven.remote()
        refs.append(poll.remote([ref]))
    assert ray.get(refs, timeout=GET_S) == [7] * 3


# -- retries -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(1)
def test_a_task_whose_worker_is_killed_runs_again(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh

    @ray.remote
    def die(path: str, times: int) -> int:
        runs = count_run(path)
        if runs <= times:
            os.kill(os.getpid(), 9)
        return runs

    assert ray.get(die.remote(str(tmp_path / "default"), 3), timeout=GET_S) == 4  # three retries by default
    with pytest.raises(WorkerCrashedError, match="SIGKILL") as caught:
        ray.get(die.options(max_retries=1).remote(str(tmp_path / "one"), 2), timeout=GET_S)
    assert "die" in str(caught.value)
    assert os.path.getsize(tmp_path / "one") == 2
    assert ray.get(die.options(max_retries=-1).remote(str(tmp_path / "always"), 6), timeout=GET_S) == 7


@pytest.mark.fault(2)
def test_ways_to_end_a_worker(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote(max_retries=0)
    def end(how: str) -> None:
        if how == "os._exit":
            os._exit(3)
        if how == "sys.exit":
            raise SystemExit(4)
        print("last words", file=__import__("sys").stderr, flush=True)
        __import__("ctypes").string_at(8)

    for how, text in (("os._exit", "3"), ("sys.exit", "4"), ("segfault", "SIGSEGV")):
        with pytest.raises(WorkerCrashedError, match=text):
            ray.get(end.remote(how), timeout=GET_S)
    with pytest.raises(WorkerCrashedError, match="last words") as caught:
        ray.get(end.remote("segfault"), timeout=GET_S)
    assert "test_tasks.py" in str(caught.value)
    assert "executor.py" not in str(caught.value)


@pytest.mark.fault(2)
def test_one_of_many_in_flight_segfaults(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote(max_retries=0)
    def task(n: int) -> int:
        if n == 40:
            __import__("ctypes").string_at(8)
        return n

    ray.get([task.remote(0) for _ in range(64)], timeout=GET_S)  # known to be short: they travel in batches
    refs = [task.remote(n) for n in range(64)]
    for n, ref in enumerate(refs):
        if n == 40:
            with pytest.raises(WorkerCrashedError):
                ray.get(ref, timeout=GET_S)
        else:
            assert ray.get(ref, timeout=GET_S) == n


@pytest.mark.parametrize("kinds", [True, [Again], [KeyError, Again], (AgainToo,)], ids=str)
def test_retries_of_exceptions(shared_mesh: ModuleType, tmp_path: Path, kinds: Any) -> None:
    ray = shared_mesh

    @ray.remote(max_retries=2, retry_exceptions=kinds)
    def fail(path: str, times: int) -> int:
        runs = count_run(path)
        if runs <= times:
            raise AgainToo(f"run {runs}")
        return runs

    assert ray.get(fail.remote(str(tmp_path / "enough"), 2), timeout=GET_S) == 3
    with pytest.raises(AgainToo, match="run 3"):
        ray.get(fail.remote(str(tmp_path / "too many"), 3), timeout=GET_S)


def test_exceptions_that_are_not_retried(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh

    class Local(Exception):
        pass

    def fail(path: str) -> int:
        count_run(path)
        raise Local("no")

    for number, options in enumerate(({}, {"retry_exceptions": False}, {"retry_exceptions": [KeyError, AgainToo]})):
        path = tmp_path / str(number)
        with pytest.raises(Local, match="no"):
            ray.get(ray.remote(fail).options(**options).remote(str(path)), timeout=GET_S)
        assert path.stat().st_size == 1
    path = tmp_path / "local"
    with pytest.raises(Local):
        ray.get(ray.remote(max_retries=1, retry_exceptions=[Local])(fail).remote(str(path)), timeout=GET_S)
    assert path.stat().st_size == 2


# -- resources ---------------------------------------------------------------------------------------------------------


def overlap(ray: ModuleType, task: Any, count: int, folder: Path) -> int:
    """The most of `count` runs of `task(path)` that were there at once; each makes a file and removes it."""
    refs = [task.remote(str(folder)) for _ in range(count)]
    return max(ray.get(refs, timeout=GET_S))


def busy(folder: str) -> int:
    """Be there for a while; the most others, with oneself, that were seen meanwhile."""
    own = Path(folder, f"{os.getpid()}-{threading.get_ident()}")
    own.touch()
    seen = 0
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        seen = max(seen, len(os.listdir(folder)))
        time.sleep(0.002)
    own.unlink()
    return seen


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 2),
        ({"num_cpus": 2}, 1),
        ({"num_cpus": 0.5}, 4),
        ({"num_cpus": 0, "resources": {"disk": 1}}, 2),
        ({"num_cpus": 0, "num_gpus": 1}, 2),
        ({"num_cpus": 0.1, "resources": {"disk": 1.5}}, 1),
    ],
    ids=str,
)
def test_no_more_run_than_resources_allow(
    shared_mesh: ModuleType, tmp_path: Path, options: dict[str, Any], most: int
) -> None:
    ray = shared_mesh
    assert overlap(ray, ray.remote(busy).options(**options), 3 * most, tmp_path) <= most
    total = ray.cluster_resources()
    until(lambda: ray.available_resources() == total, "every slot to be free again")


def test_memory_is_a_resource(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh
    half = int(ray.cluster_resources()["memory"] * 0.6)
    assert overlap(ray, ray.remote(busy).options(memory=half), 3, tmp_path) == 1


def test_gpus_are_ids_in_the_environment(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh
    (tmp_path / "looks_at_import.py").write_text("import os\nseen = os.environ.get('CUDA_VISIBLE_DEVICES')\n")
    folder = str(tmp_path)

    @ray.remote
    def look() -> tuple[Any, ...]:
        import sys

        sys.path.append(folder)
        import looks_at_import  # type: ignore[import-not-found]

        return looks_at_import.seen, ray.get_gpu_ids(), ray.get_runtime_context().get_accelerator_ids()["GPU"]

    seen, ids, texts = ray.get(look.options(num_gpus=1).remote(), timeout=GET_S)
    assert seen in ("0", "1")
    assert ids == [int(seen)]
    assert texts == [seen]
    assert ray.get(look.options(num_gpus=2).remote(), timeout=GET_S) == ("0,1", [0, 1], ["0", "1"])
    assert ray.get(look.options(num_gpus=0.5).remote(), timeout=GET_S)[0] in ("0", "1")
    assert ray.get(look.remote(), timeout=GET_S) == ("", [], [])

    @ray.remote(num_gpus=0.5, num_cpus=0)
    def hold() -> str:
        time.sleep(0.2)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    assert set(ray.get([hold.remote() for _ in range(4)], timeout=GET_S)) <= {"0", "1"}


def test_what_a_task_is_told_of_its_resources(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote(num_cpus=0.5, resources={"disk": 1})
    def look() -> dict[str, float]:
        return dict(ray.get_runtime_context().get_assigned_resources())

    assert ray.get(look.remote(), timeout=GET_S) == {"CPU": 0.5, "disk": 1.0}


def test_a_task_that_can_never_run_is_reported(shared_mesh: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    ray = shared_mesh

    @ray.remote(num_cpus=100, resources={"unicorn": 1})
    def never() -> None:
        return None

    ref = never.remote()
    until(lambda: "unicorn" in caplog.text, "a warning")
    message = next(record.getMessage() for record in caplog.records if "unicorn" in record.getMessage())
    for part in ("never", "100", "CPU: 2"):
        assert part in message
    assert ray.wait([ref], timeout=0) == ([], [ref])
    ray.cancel(ref)


# -- what a worker is like ---------------------------------------------------------------------------------------------


def test_random_numbers_differ_between_workers(shared_mesh: ModuleType, tmp_path: Path) -> None:
    ray = shared_mesh

    @ray.remote
    def draw(folder: str) -> tuple[int, float, float]:
        Path(folder, str(os.getpid())).touch()
        while len(os.listdir(folder)) < 2:
            time.sleep(0.001)  # until a second worker draws as well
        return os.getpid(), random.random(), float(np.random.random())

    drawn = ray.get([draw.remote(str(tmp_path)) for _ in range(2)], timeout=GET_S)
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == 2


def test_prints_arrive_at_the_driver(shared_mesh: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    ray = shared_mesh
    printed: list[str] = []

    @ray.remote
    def speak() -> int:
        print("a line of a task")
        return os.getpid()

    pid = ray.get(speak.remote(), timeout=GET_S)

    def arrived() -> bool:
        printed.append(capfd.readouterr().out)
        return "a line of a task" in "".join(printed)

    until(arrived, "the print")
    line = next(line for line in "".join(printed).splitlines() if "a line of a task" in line)
    assert line.startswith(f"(speak pid={pid}")


@pytest.mark.fault(50)
def test_a_module_that_an_actor_or_a_running_task_misses(shared_mesh: ModuleType, tmp_path: Path) -> None:
    import importlib
    import socket
    import sys

    ray = shared_mesh
    (tmp_path / "only_here_abc.py").write_text("class Base:\n    pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        base = importlib.import_module("only_here_abc").Base
    finally:
        sys.path.remove(str(tmp_path))

    class Actor(base):  # type: ignore[misc, valid-type]
        def f(self) -> None:
            pass

    def late() -> None:
        import only_here_abc  # type: ignore[import-not-found] # noqa: F401

    with pytest.raises(ray.exceptions.ActorDiedError, match="only_here_abc") as died:
        ray.get(ray.remote(Actor).remote().f.remote(), timeout=GET_S)
    with pytest.raises(ModuleNotFoundError, match="only_here_abc") as caught:
        ray.get(ray.remote(late).remote(), timeout=GET_S)
    for error in (died.value, caught.value):
        assert f"host {socket.gethostname()} cannot import" in str(error), error
        assert "where the program's sys.path pointed at init()" in str(error)
    assert "Traceback" not in str(died.value), "the frames would be those of loading"
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("cannot import") == 1
    assert "import only_here_abc" in shown


@pytest.mark.fault(50)
def test_a_module_that_is_not_there_on_the_worker(shared_mesh: ModuleType, tmp_path: Path) -> None:
    import importlib
    import socket
    import sys

    ray = shared_mesh
    (tmp_path / "only_here_xyz.py").write_text("def task():\n    return 1\n")
    sys.path.insert(0, str(tmp_path))  # after init: the workers have the path of before
    try:
        module = importlib.import_module("only_here_xyz")
    finally:
        sys.path.remove(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="only_here_xyz") as caught:
        ray.get(ray.remote(module.task).remote(), timeout=GET_S)
    assert socket.gethostname() in str(caught.value)
    assert "where the program's sys.path pointed at init()" in str(caught.value)
    assert "Traceback" not in str(caught.value), "the frames would be those of loading"
    assert str(caught.value).count("No module named") == 1


def test_a_module_that_lacks_another_one_is_shown_with_its_line(tmp_path: Path) -> None:
    """Its own line is the user's, however many frames of loading are before it."""
    (tmp_path / "helper.py").write_text("def task():\n    return 1\n")
    told = run(
        *python(
            write(
                tmp_path / "program.py",
                """
                import pathlib
                import meshray as ray
                import helper

                pathlib.Path("helper.py").write_text("def other():\\n    pass\\n\\nimport no_such_module\\n")
                ray.init(num_cpus=1)
                try:
                    ray.get(ray.remote(helper.task).remote(), timeout=60)
                except ModuleNotFoundError as error:
                    print(error)
                """,
            )
        ),
        cwd=tmp_path,
    )
    assert "task needs the module 'no_such_module'" in told
    assert 'helper.py", line 4, in <module>' in told
    assert "import no_such_module" in told
    assert os.path.join("meshray", "worker") not in told


def test_functions_of_every_kind(shared_mesh: ModuleType) -> None:
    ray = shared_mesh
    offset = 5

    class Adder:
        def __init__(self, n: int) -> None:
            self.n = n

        def add(self, m: int) -> int:
            return self.n + m

    def closure(n: int) -> int:
        return n + offset

    assert ray.get(ray.remote(closure).remote(1), timeout=GET_S) == 6
    assert ray.get(ray.remote(lambda n: n * 2).remote(4), timeout=GET_S) == 8
    assert ray.get(ray.remote(closure).remote(n=2), timeout=GET_S) == 7
    made = ray.get(ray.remote(lambda: Adder(3)).remote(), timeout=GET_S)
    assert made.add(1) == 4
    assert type(made) is Adder
    passed: Callable[[int], int] = ray.get(ray.remote(lambda f: f).remote(closure), timeout=GET_S)
    assert passed(0) == 5


def test_many_threads_submit_and_get(shared_mesh: ModuleType) -> None:
    ray = shared_mesh

    @ray.remote
    def double(n: int) -> int:
        return 2 * n

    failures: list[BaseException] = []

    def work(base: int) -> None:
        try:
            for n in range(base, base + 30):
                assert ray.get(double.remote(n), timeout=GET_S) == 2 * n
            refs = [double.remote(n) for n in range(base, base + 100)]
            assert ray.get(refs, timeout=GET_S) == [2 * n for n in range(base, base + 100)]
            assert ray.get(ray.put(base), timeout=GET_S) == base
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GET_S)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)
