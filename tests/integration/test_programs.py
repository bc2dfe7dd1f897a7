"""Programs as users write and start them: forgetful ones, several at once, in a REPL, with modules of one name."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

import meshray as ray
from meshray.local import find_peers
from tests.integration.programs import (
    LIMIT_S,
    kill,
    python,
    run,
    running,
    standing_peer,
    write,
)

ROOT = Path(__file__).parents[2]

HEAD = """
import os, sys, threading, time
import meshray as ray

@ray.remote
def plus_one(x):
    return x + 1

@ray.remote
def slow():
    time.sleep(600)

@ray.remote
class Counter:
    def __init__(self):
        self.count = 0
    def add(self):
        self.count += 1
        return self.count
"""


def program(folder: Path, text: str, name: str = "program.py") -> Path:
    path = write(folder / name, text)
    path.write_text(HEAD + path.read_text())
    return path


# -- beginnings and ends -----------------------------------------------------------------------------------------------


class TestEnds:
    """The leak check around each test sees whether anything is left."""

    def test_a_program_that_forgets_to_shut_down(self, tmp_path: Path) -> None:
        path = program(
            tmp_path,
            """
            actor = Counter.remote()
            print(ray.get([plus_one.remote(1), actor.add.remote()]))
            refs = [slow.remote() for _ in range(10)] + [ray.put(b"x" * 1_000_000)]
            """,
        )
        assert "[2, 1]" in run(*python(path))

    def test_a_program_that_ends_with_an_exception(self, tmp_path: Path) -> None:
        path = program(tmp_path, "ref = slow.remote()\nray.get(plus_one.remote(1))\nraise KeyError('at the top')\n")
        told = run(*python(path), code=1)
        assert told.count("Traceback") == 1
        assert "KeyError: 'at the top'" in told

    @pytest.mark.parametrize("how", ["sys.exit(5)", "os._exit(5)", "os.kill(os.getpid(), 15)"])
    def test_a_program_that_ends_in_other_ways(self, tmp_path: Path, how: str) -> None:
        path = program(tmp_path, f"ref = slow.remote()\nprint(ray.get(plus_one.remote(1)))\n{how}\n")
        assert "2" in run(*python(path), code=-signal.SIGTERM if "kill" in how else 5)

    @pytest.mark.fault(63)
    def test_init_twice_and_shutdown_twice(self, tmp_path: Path) -> None:
        path = program(
            tmp_path,
            """
            ray.init(num_cpus=1)
            try:
                ray.init(num_cpus=1)
            except RuntimeError as error:
                assert "twice" in str(error)
            else:
                raise AssertionError
            ray.init(ignore_reinit_error=True)
            assert ray.get(plus_one.remote(1), timeout=60) == 2
            for _ in range(3):
                ray.shutdown()
            for _ in range(3):
                with ray.init(num_cpus=1):
                    assert ray.get(plus_one.remote(2), timeout=60) == 3
                assert not ray.is_initialized()
            print("all is well")
            """,
        )
        assert "all is well" in run(*python(path))

    @pytest.mark.fault(63)
    @pytest.mark.parametrize(
        "where",
        [
            "ref.future().add_done_callback(lambda _: (ray.shutdown(), done.set()))",
            "threading.Thread(target=lambda: (ray.get(ref), ray.shutdown(), done.set())).start()",
            "import atexit; ray.get(ref); atexit.register(lambda: (ray.shutdown(), print('all is well'))); done.set()",
            "import signal; signal.signal(signal.SIGALRM, lambda *_: (ray.shutdown(), done.set())); signal.alarm(1)",
        ],
        ids=["callback", "thread", "atexit", "signal handler"],
    )
    def test_shutdown_from_odd_places(self, tmp_path: Path, where: str) -> None:
        """While another thread waits for what will never come, and tasks run: it is told, and the program ends."""
        path = program(
            tmp_path,
            f"""
            ray.init(num_cpus=2)
            done = threading.Event()
            never = slow.remote()
            told = []

            def wait():
                try:
                    ray.get(never)
                except ray.exceptions.MeshrayError as error:
                    told.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            ref = plus_one.remote(1)
            {where}
            try:
                ray.get(never) if "alarm" in {where!r} else done.wait(60)
            except ray.exceptions.MeshrayError as error:
                assert "shut down" in str(error), error
            assert done.wait(60)
            ray.shutdown()
            thread.join(60)
            assert not thread.is_alive()
            assert "shut down" in str(told[0]), told
            ray.init(num_cpus=1)
            assert ray.get(plus_one.remote(2), timeout=60) == 3
            print("all is well")
            """,
        )
        assert "all is well" in run(*python(path))

    @pytest.mark.fault(63)
    def test_shutdown_while_threads_submit_and_get(self, tmp_path: Path) -> None:
        path = program(
            tmp_path,
            """
            errors, stop = [], threading.Event()

            def work():
                while not stop.is_set():
                    try:
                        ray.get([plus_one.remote(n) for n in range(20)], timeout=60)
                        ray.put(b"x" * 200_000)
                    except ray.exceptions.MeshrayError:
                        time.sleep(0.005)
                    except BaseException as error:
                        errors.append(error)
                        raise

            threads = [threading.Thread(target=work) for _ in range(4)]
            ray.init(num_cpus=2)
            for thread in threads:
                thread.start()
            for _ in range(4):
                time.sleep(0.1)
                ray.shutdown()
                ray.init(num_cpus=2, ignore_reinit_error=True)
            stop.set()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads)
            assert not errors, errors
            print("all is well")
            """,
        )
        assert "all is well" in run(*python(path))


# -- ways to start -----------------------------------------------------------------------------------------------------


class TestStarts:
    def test_in_a_repl(self, tmp_path: Path) -> None:
        with running(sys.executable, "-i", "-q", cwd=tmp_path) as repl:
            repl.say("import meshray as ray\n")
            repl.say("@ray.remote\ndef f(x):\n    return x * 2\n\n")
            repl.say("print('value', ray.get(f.remote(21)))\n")
            repl.read_until("value 42")
            repl.say("def f2(x):\n    return helper(x)\n\n")
            repl.say("helper = lambda x: x + 0.5\n")
            repl.say("print('value', ray.get(ray.remote(f2).remote(1)))\n")
            repl.read_until("value 1.5")
            repl.say("exit()\n")
            repl.end()

    def test_as_a_module_and_as_a_script_in_another_folder(self, tmp_path: Path) -> None:
        (tmp_path / "package").mkdir()
        (tmp_path / "elsewhere").mkdir()
        write(tmp_path / "package" / "__init__.py", "")
        write(tmp_path / "package" / "helper.py", "def triple(x):\n    return 3 * x\n")
        body = """
            import meshray as ray
            {how}

            @ray.remote
            def f(x):
                return triple(x)

            if __name__ == "__main__":
                print("value", ray.get([f.remote(7), ray.remote(triple).remote(5)], timeout=60))
        """
        write(tmp_path / "package" / "main.py", body.format(how="from .helper import triple"))
        write(tmp_path / "package" / "script.py", body.format(how="from helper import triple"))
        assert "value [21, 15]" in run(sys.executable, "-m", "package.main", cwd=tmp_path)
        script = tmp_path / "package" / "script.py"
        assert "value [21, 15]" in run(sys.executable, script, cwd=tmp_path / "elsewhere")

    def test_text_that_is_executed_like_a_notebook_cell(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "cells.py",
            """
            cells = [
                "import meshray as ray",
                "factor = 3",
                "@ray.remote\\ndef f(x):\\n    return factor * x",
                "print('value', ray.get(f.remote(7), timeout=60))",
                "factor = 4\\n@ray.remote\\ndef f(x):\\n    return factor * x + 1",
                "print('value', ray.get(f.remote(7), timeout=60))",
            ]
            names = {"__name__": "__main__"}
            for number, cell in enumerate(cells):
                exec(compile(cell, f"<cell {number}>", "exec"), names)
            """,
        )
        told = run(*python(path))
        assert "value 21" in told
        assert "value 29" in told

    def test_from_standard_input_and_from_the_command_line(self) -> None:
        text = "import meshray as ray\nf = ray.remote(lambda x: x + 1)\nprint('value', ray.get(f.remote(1)))\n"
        assert "value 2" in run(sys.executable, "-c", text)
        with running(sys.executable, "-") as program:
            program.say(text)
            assert program.process.stdin is not None
            assert "value 2" in program.end()


class TestAttaching:
    def test_where_a_peer_runs(self) -> None:
        """No address: it is joined; "auto": the same; "local": a private one all the same; resources: refused."""
        f = ray.remote(os.getpid)
        with standing_peer() as record:
            for address, private in ((None, 0), ("auto", 0), (record.folder, 0), ("local", 1)):
                context = ray.init(address)
                assert len(find_peers(private=True)) == 1 + private
                assert (context["node_id"] == record.node) == (not private)
                assert ray.get(f.remote(), timeout=LIMIT_S) != os.getpid()
                ray.shutdown()
            for resources in ({"num_cpus": 1}, {"resources": {"x": 1}}, {"object_store_memory": 1 << 28}):
                with pytest.raises(ValueError, match="cannot be given"):
                    ray.init(**resources)  # type: ignore[arg-type]
            assert not ray.is_initialized()

    def test_where_none_runs(self) -> None:
        with pytest.raises(ConnectionError, match="meshray start"):
            ray.init("auto")
        with ray.init() as context:
            assert [peer.node for peer in find_peers(private=True)] == [context["node_id"]]
        assert find_peers(private=True) == []

    def test_cpus_are_those_that_this_program_may_use(self) -> None:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            ray.init()
            assert ray.cluster_resources()["CPU"] == 1
            ray.shutdown()
        finally:
            os.sched_setaffinity(0, before)


# -- two at once -------------------------------------------------------------------------------------------------------


class TestTwoAtOnce:
    def test_two_programs_with_a_mesh_each(self, tmp_path: Path) -> None:
        path = program(
            tmp_path,
            """
            ray.init(num_cpus=1, namespace="test")
            counter = Counter.options(name="counter").remote()
            print("ready", flush=True)
            sys.stdin.readline()
            for _ in range(20):
                ray.get([plus_one.remote(n) for n in range(20)], timeout=60)
                ray.get(counter.add.remote(), timeout=60)
            print("count", ray.get(counter.add.remote(), timeout=60))
            """,
        )
        with running(*python(path)) as one, running(*python(path)) as two:
            for each in (one, two):
                each.read_until("ready")
            assert len(find_peers(private=True)) == 2
            for each in (one, two):
                each.say("\n")
            for each in (one, two):
                assert "count 21" in each.end()

    def test_on_one_peer_names_objects_and_actors_are_apart(self, tmp_path: Path) -> None:
        text = """
            import pickle
            ray.init(namespace=sys.argv[1] if sys.argv[1] != "none" else None)
            counter = Counter.options(name="counter").remote()
            assert ray.get(counter.add.remote(), timeout=60) == 1
            print("ready", flush=True)
            sys.stdin.readline()
            assert ray.get(ray.get_actor("counter").add.remote(), timeout=60) == 2
            print("all is well")
        """
        path = program(tmp_path, text)
        with (
            standing_peer(),
            running(*python(path), "one") as one,
            running(*python(path), "two") as two,
            running(*python(path), "none") as three,
            running(*python(path), "none") as four,
        ):
            for each in (one, two, three, four):
                each.read_until("ready")
            for each in (one, two, three, four):
                each.say("\n")
                assert "all is well" in each.end()

    def test_modules_of_one_name_and_different_content(self, tmp_path: Path) -> None:
        with standing_peer() as _:
            programs = []
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                write(tmp_path / name / "helper.py", f"NAME = {name!r}\ndef f():\n    return NAME\n")
                text = """
                    import meshray as ray
                    import helper

                    @ray.remote
                    def g():
                        import helper
                        return helper.f()

                    ray.init()
                    names = ray.get([ray.remote(helper.f).remote() for _ in range(20)] + [g.remote()], timeout=60)
                    assert len(set(names)) == 1
                    print("it is", names[0], flush=True)
                    input()
                """
                programs.append(write(tmp_path / name / "main.py", text))
            with running(*python(programs[0])) as one, running(*python(programs[1])) as two:
                one.read_until("it is one")
                two.read_until("it is two")

    @pytest.mark.fault(41)
    def test_a_second_driver_beside_one_with_many_queued_tasks(self, tmp_path: Path) -> None:
        """Fair by count: its tasks run while the first still has most of its own ahead."""
        text = """
            import os, sys
            import meshray as ray

            @ray.remote
            def tick(path):
                os.write(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), b".")

            ray.init()
            refs = [tick.remote(sys.argv[1]) for _ in range(100_000)]
            print("queued", flush=True)
            ray.get(refs)
        """
        ticks = tmp_path / "ticks"
        with standing_peer(), running(*python(write(tmp_path / "many.py", text)), ticks) as many:
            many.read_until("queued")
            begun = ticks.stat().st_size
            ray.init()
            values = ray.get([ray.remote(lambda n: n + 1).remote(n) for n in range(5)], timeout=LIMIT_S)
            assert values == [1, 2, 3, 4, 5]
            assert ticks.stat().st_size - begun < 50_000
            assert ticks.stat().st_size < 99_000, "the first driver was done too soon to show anything"
            kill(many.pid)
            ray.shutdown()

    def test_long_tasks_of_one_job_and_the_next_ones_of_another(self, tmp_path: Path) -> None:
        """A driver whose tasks each run long holds every CPU; what comes free goes to the other first."""
        text = """
            import sys, time
            import meshray as ray

            @ray.remote
            def hold():
                time.sleep(0.15)

            ray.init()
            refs = [hold.remote() for _ in range(1000)]
            ray.get(refs[0])
            print("busy", flush=True)
            while True:
                ready, refs = ray.wait(refs, num_returns=1)
                print(".", end="", flush=True)
        """
        with standing_peer(), running(*python(write(tmp_path / "many.py", text))) as many:
            many.read_until("busy")
            ray.init()
            f = ray.remote(lambda n: n + 1)
            assert ray.get([f.remote(n) for n in range(4)], timeout=LIMIT_S) == [1, 2, 3, 4]
            told = many.read_until("....")
            assert told.count(".") < 500
            kill(many.pid)
            ray.shutdown()


# -- another interpreter -----------------------------------------------------------------------------------------------


def virtual_environment(folder: Path, *lines: str) -> Path:
    """An environment with another prefix and the packages of this one; what `python -m venv` makes, but at once."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = folder / "lib" / version / "site-packages"
    own.mkdir(parents=True)
    (folder / "bin").mkdir()
    base = Path(sys.base_prefix) / "bin" / version
    (folder / "bin" / "python").symlink_to(base)
    home = f"home = {base.parent}\ninclude-system-site-packages = false\n"
    (folder / "pyvenv.cfg").write_text(home)
    (own / "same.pth").write_text("\n".join([*lines, *packages, str(ROOT)]) + "\n")
    return folder / "bin" / "python"


class TestAnotherInterpreter:
    def test_a_driver_in_another_virtual_environment(self, tmp_path: Path) -> None:
        interpreter = virtual_environment(tmp_path / "venv")
        path = write(
            tmp_path / "program.py",
            """
            import sys
            import meshray as ray

            @ray.remote
            def where():
                return sys.prefix, sys.executable

            ray.init()
            assert ray.get(where.remote(), timeout=60) == (sys.prefix, sys.executable), sys.prefix
            print("it ran in", sys.prefix)
            """,
        )
        with standing_peer():
            assert f"it ran in {tmp_path / 'venv'}" in run(interpreter, path)
            assert f"it ran in {sys.prefix}" in run(*python(path))
        assert f"it ran in {tmp_path / 'venv'}" in run(interpreter, path)

    @pytest.mark.fault(4)
    def test_one_in_which_workers_cannot_start(self, tmp_path: Path) -> None:
        """A budget of crashes, then the driver is told the traceback; others on the same peer do not notice."""
        trap = "import os, sys; 'IS_DRIVER' in os.environ or sys.modules.__setitem__('cloudpickle', None)"
        interpreter = virtual_environment(tmp_path / "venv", trap)
        path = write(
            tmp_path / "program.py",
            """
            import meshray as ray

            @ray.remote
            def f():
                return 1

            @ray.remote(num_cpus=0)
            def g():
                return 1

            ray.init()
            ray.get([f.remote(), g.remote()])
            """,
        )
        with standing_peer(), running(interpreter, path, env={"IS_DRIVER": "1"}) as broken:
            told = broken.read_until("import of cloudpickle halted")
            assert "5 times" in told
            assert "Traceback" in told
            ray.init()
            assert ray.get(ray.remote(lambda: 5).remote(), timeout=LIMIT_S) == 5
            broken.send(signal.SIGINT)
            assert broken.end(-signal.SIGINT).count("workers crash before") == 1, "the same for all functions, once"
            ray.shutdown()
