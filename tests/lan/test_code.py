"""A program of several files runs on hosts that have none of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.lan.network import Host, Lan, Program
from tests.lan.peers import Peer, agree
from tests.until import until

MakeLan = Callable[..., Lan]

FILES = {
    "main.py": """
        import json, os, socket, sys
        from pathlib import Path
        import meshray
        from meshray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
        import helper
        from package.deep.numbers import double

        class Reader:
            def __init__(self, name):
                self.name = name
            def read(self):
                return Path(__file__).with_name("data").joinpath(self.name).read_text()

        @meshray.remote
        def look():
            from package.deep import late
            return {
                "host": socket.gethostname(),
                "driver's folder": os.path.exists(FOLDER),
                "beside the script": Reader("table.csv").read(),
                "in the working directory": Path("data/table.csv").read_text(),
                "beside a module": helper.read(),
                "by a link": Path("linked/table.csv").read_text(),
                "imported late": late.VALUE,
                "double": double(21),
                "script": Path(sys.argv[0]).read_text()[:20] == Path(__file__).read_text()[:20],
                "executable": os.access("tool", os.X_OK),
                "hidden": os.path.exists(".secret"),
                "copy": os.getcwd(),
            }

        def fail():
            import only_on_a
            return only_on_a

        FOLDER = os.path.dirname(os.path.abspath(__file__))

        def main():
            meshray.init("auto")
            there = NodeAffinitySchedulingStrategy(sys.argv[1], False)
            looks = meshray.get([look.options(scheduling_strategy=there).remote() for _ in range(4)], timeout=60)
            assert all(each == looks[0] for each in looks), looks
            print(json.dumps(looks[0]), flush=True)
            sys.path.insert(0, FOLDER + "-extra")
            import only_on_a
            for function in (only_on_a.task, fail):
                try:
                    meshray.get(meshray.remote(function).options(scheduling_strategy=there).remote(), timeout=60)
                except ModuleNotFoundError as error:
                    print(json.dumps({"missing": str(error)}), flush=True)
            sys.stdin.readline()

        if __name__ == "__main__":
            main()
        """,
    "helper.py": """
        from pathlib import Path

        def read():
            return Path(__file__).with_name("data").joinpath("table.csv").read_text()
        """,
    "package/__init__.py": "",
    "package/deep/__init__.py": "",
    "package/deep/numbers.py": "def double(n):\n    return 2 * n\n",
    "package/deep/late.py": "VALUE = 'late'\n",
    "data/table.csv": "1,2,3\n",
    "tool": "#!/bin/sh\n",
    ".secret": "hidden",
}


def write_program(folder: Path) -> Path:
    """The program, and beside it a library that does not go along."""
    program = folder / "program"
    for name, text in FILES.items():
        path = program / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"))
    (program / "tool").chmod(0o755)
    (program / "linked").symlink_to("data")
    (folder / "program-extra").mkdir()
    (folder / "program-extra" / "only_on_a.py").write_text("def task():\n    return 1\n")
    return program


def hide(folder: Path, host: Host) -> None:
    """On this host there is nothing in the folder."""
    subprocess.run([*host.entering(), "mount", "-t", "tmpfs", "none", str(folder)], check=True)
    seen = subprocess.run([*host.entering(), "ls", "-A", str(folder)], check=True, capture_output=True, text=True)
    assert seen.stdout == ""


def copies(peer: Peer) -> list[str]:
    """Names of the copies below the folder of a peer's node."""
    node = peer.host.folder / "run" / peer.status()["node_id"]
    return sorted(path.name for path in (node / "code").glob("*") if path.is_dir())


def answers(program: Program, count: int) -> list[Any]:
    until(lambda: len(program.json_lines()) >= count or not program.running(), f"it answers: {program}")
    found = program.json_lines()
    assert len(found) >= count, program
    return found


@pytest.mark.fault(50)
def test_a_program_of_several_files_runs_where_none_of_them_are(lan: MakeLan, tmp_path: Path) -> None:
    program = write_program(tmp_path / "src")
    network = lan("a", "b")
    hide(tmp_path / "src", network["b"])
    a, b = Peer(network["a"]), Peer(network["b"])
    agree(a, b)
    node = b.status()["node_id"]
    running = network["a"].start("sh", "-c", f"cd {program} && exec {sys.executable} main.py {node}")
    look, *missing = answers(running, 3)
    copy = look.pop("copy")
    assert copy.startswith(str(b.host.folder))
    assert look == {
        "host": "b",
        "driver's folder": False,
        "beside the script": "1,2,3\n",
        "in the working directory": "1,2,3\n",
        "beside a module": "1,2,3\n",
        "by a link": "1,2,3\n",
        "imported late": "late",
        "double": 42,
        "script": True,
        "executable": True,
        "hidden": False,
    }
    for each in missing:
        assert "only_on_a" in each["missing"]
        assert "host b" in each["missing"]
    assert f'{program}/main.py", line ' in missing[1]["missing"]
    assert "    import only_on_a\n" in missing[1]["missing"], "the line of the script, of which this host has a copy"
    assert copies(b) == [Path(copy).name]
    assert copies(a) == []
    running.tell("end")
    assert running.wait() == 0
    again = network["a"].start(sys.executable, str(program / "main.py"), node)  # from another working directory
    until(lambda: not again.running(), "it fails: its data is not there")
    assert "No such file or directory: 'data/table.csv'" in "\n".join(again.lines)
    assert copies(b) == [Path(copy).name], "the same content is the same copy"
    b.stop()
    assert not Path(copy).parent.exists()


PLAIN = """
    import json, logging, os, shutil, socket, sys
    import meshray
    from meshray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    {before}

    @meshray.remote
    def look():
        {look}

    meshray.init("auto")
    {after}
    there = NodeAffinitySchedulingStrategy(sys.argv[1], {soft})
    refs = [look.options(scheduling_strategy=there).remote() for _ in range(2)]
    print(json.dumps(meshray.get(refs, timeout=60)), flush=True)
    """


def run_plain(host: Host, folder: Path, node: str, **pieces: str) -> str:
    """A short program in a folder of its own; what it said."""
    text = dedent(PLAIN).format(**{"before": "", "after": "", "soft": "False", **pieces})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.py").write_text(text)
    return host.run(sys.executable, str(folder / "main.py"), node, timeout_s=90)


def two(lan: MakeLan) -> tuple[Lan, Peer, Peer]:
    network = lan("a", "b")
    a, b = Peer(network["a"]), Peer(network["b"])
    agree(a, b)
    return network, a, b


@pytest.mark.slow
def test_a_folder_that_is_too_large_sends_its_sources_and_says_so_once(lan: MakeLan, tmp_path: Path) -> None:
    network, _, b = two(lan)
    program = tmp_path / "program"
    program.mkdir()
    (program / "helper.py").write_text("VALUE = 5\n")
    with (program / "big.bin").open("wb") as file:
        file.truncate(200 << 20)
    told = run_plain(
        network["a"], program, b.status()["node_id"],
        before="import helper; from pathlib import Path",
        look="return helper.VALUE, sorted(path.name for path in Path(helper.__file__).parent.glob('[!_]*'))",
    )  # fmt: skip
    assert "has more than 100 MiB" in told
    assert told.count("big.bin") == 0
    assert told.count("goes to other hosts") == 1
    assert "come as an argument (a large one by meshray.put)" in told
    assert '[5, ["helper.py", "main.py"]]' in told


def test_a_home_is_no_news_but_to_whoever_misses_something_of_it(lan: MakeLan, tmp_path: Path) -> None:
    network, _, b = two(lan)
    home = tmp_path / "home"
    (home / "project").mkdir(parents=True)
    (home / "project" / "model.py").write_text("VALUE = 5\n")
    (home / "notes.txt").write_text("of no use to tasks")
    hide(home, network["b"])
    catch = (
        "try: meshray.get(meshray.remote(load).options(scheduling_strategy=there).remote(), timeout=60)\n"
        "except {error} as error: print(json.dumps([str(error)]), flush=True)\n"
    )
    (home / "main.py").write_text(
        "import json, sys, meshray\n"
        "from meshray.util.scheduling_strategies import NodeAffinitySchedulingStrategy\n"
        "meshray.init('auto')\n"
        "there = NodeAffinitySchedulingStrategy(sys.argv[1], False)\n"
        "@meshray.remote\n"
        "class Actor:\n"
        "    def f(self): return 7\n"
        "actor = Actor.options(scheduling_strategy=there).remote()\n"
        "print(json.dumps([meshray.get(actor.f.remote(), timeout=60)]), flush=True)\n"
        "def load():\n"
        "    sys.path.append('project')\n"
        "    import model\n" + catch.format(error="ModuleNotFoundError") + "def load():\n"
        "    open('notes.txt')\n" + catch.format(error="FileNotFoundError")
    )
    told = network["a"].run(
        "sh", "-c", f"cd {home} && exec {sys.executable} main.py {b.status()['node_id']}", HOME=str(home), timeout_s=90
    )
    warned, *answers = told.splitlines()
    words = (
        f"of the program's own folder {home} this host has a copy (only its Python files, since it is a home folder)"
    )
    assert warned == "[7]", "an actor that needs nothing else is no cause for a warning"
    module, file = (json.loads(line)[0] for line in answers)
    assert module.count(words) == 1
    assert "a worker on host b cannot import it" in module
    assert file.count(words) == 1


@pytest.mark.slow
def test_a_folder_that_is_gone_is_told_and_what_needs_no_file_runs(lan: MakeLan, tmp_path: Path) -> None:
    network, _, b = two(lan)
    told = run_plain(
        network["a"], tmp_path / "program", b.status()["node_id"],
        look="return socket.gethostname()", after="shutil.rmtree(os.path.dirname(os.path.abspath(__file__)))",
    )  # fmt: skip
    assert "The program's files do not go to other hosts: FileNotFoundError" in told
    assert '["b", "b"]' in told


def test_a_host_without_room_says_so_and_others_do_the_work(lan: MakeLan, tmp_path: Path) -> None:
    """Its workers end before they begin; the driver hears why, and nothing hangs."""
    network = lan("a", "b")
    run = network["b"].folder / "run"
    run.mkdir(mode=0o700)
    small = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "none", str(run)]
    subprocess.run([*network["b"].entering(), *small], check=True)
    a, b = Peer(network["a"]), Peer(network["b"])
    agree(a, b)
    program = tmp_path / "program"
    program.mkdir()
    (program / "data.bin").write_bytes(bytes(5 << 20))
    node = b.status()["node_id"]
    text = dedent(PLAIN).format(before="", look="return socket.gethostname()", after="", soft="False")
    (program / "main.py").write_text(text)
    running = network["a"].start(sys.executable, str(program / "main.py"), node)
    for why in ("No space left on device", "host b could not make its copy of the program's folder"):
        until(lambda why=why: any(why in line for line in running.lines), f"it is told why: {running}")
    running.kill()
    until(lambda: not b.status()["workers"].get("leased"), "nobody waits for the dead driver")


LASTING = {
    "main.py": """
        import json, os, sys
        sys.path.append(os.path.dirname(os.path.abspath(__file__)) + "-beside")
        import meshray
        {module} as helper

        @meshray.remote
        class Counter:
            def __init__(self):
                self.count = helper.FIRST
            def inc(self):
                self.count += 1
                return self.count

        meshray.init("auto", namespace="app")
        options = {{"lifetime": "detached", "max_restarts": 2, **json.loads(sys.argv[1])}}
        counters = [Counter.options(name=f"p{{number}}", **options).remote() for number in range(4)]
        refs = [counter.inc.remote() for counter in counters]
        if "at once" not in sys.argv:
            print(json.dumps(meshray.get(refs, timeout=60)), flush=True)
        if "waits" in sys.argv:
            sys.stdin.readline()
        """,
    "helper.py": "FIRST = 7\n",
}

KILLED = """
import os, signal
import meshray

@meshray.remote
class Counter:
    def __init__(self):
        self.count = 7
    def inc(self):
        self.count += 1
        return self.count

meshray.init("auto", namespace="app")
counters = [Counter.options(name=f"p{number}", lifetime="detached", max_restarts=2).remote() for number in range(4)]
os.kill(os.getpid(), signal.SIGKILL)
"""

CALL = """
import json, time
import meshray

end = time.monotonic() + 60

def call(name):
    while True:
        try:
            return meshray.get(meshray.get_actor(name).inc.remote(), timeout=20)
        except ValueError as error:  # nobody has inherited it yet
            if time.monotonic() > end or "The last one has died" in str(error):
                return str(error)
        except meshray.exceptions.MeshrayError as error:
            if time.monotonic() > end:
                return f"{type(error).__name__}: {error}"
        time.sleep(0.1)

meshray.init("auto", namespace="app")
print(json.dumps([call(f"p{number}") for number in range(4)]), flush=True)
"""

MEBIBYTE = 1 << 20


def write_lasting(folder: Path, module: str = "import helper", data_bytes: int = 0) -> None:
    """A program of several files, whose detached actors go on when it has ended."""
    folder.mkdir(parents=True)
    for name, text in LASTING.items():
        (folder / name).write_text(dedent(text).lstrip("\n").format(module=module))
    (folder / "data.bin").write_bytes(bytes(data_bytes))


def run_lasting(host: Host, folder: Path, module: str = "import helper", data_bytes: int = 0, **options: Any) -> None:
    """It runs, and ends."""
    write_lasting(folder, module, data_bytes)
    told = host.run(sys.executable, str(folder / "main.py"), json.dumps(options), timeout_s=90)
    assert told == "[8, 8, 8, 8]", told


def call_lasting(host: Host) -> Any:
    """What each of them answers, or why it does not."""
    folder = host.folder / "caller"
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(CALL.lstrip())
    return json.loads(host.run(sys.executable, str(folder / "main.py"), timeout_s=90))


class TestDetachedActors:
    """They outlive the program, and the host that has its folder."""

    def peers(self, network: Lan, hidden: Path, *names: str, **options: tuple[str, ...]) -> list[Peer]:
        for name in names:
            if name != "a":
                hide(hidden, network[name])
        return [Peer(network[name], *options.get(name, ())) for name in names]

    def test_they_start_where_no_copy_of_the_folder_is_when_their_host_is_stopped(
        self, lan: MakeLan, tmp_path: Path
    ) -> None:
        """(The others come when all have begun: on a busy machine one of them would have moved before, and would count
        on.)"""
        network = lan("a", "b", "c")
        (a,) = self.peers(network, tmp_path, "a")
        write_lasting(tmp_path / "program")
        program = network["a"].start("python", str(tmp_path / "program" / "main.py"), "{}", "waits")
        until(lambda: program.lines or not program.running(), "they count")
        assert program.lines == ["[8, 8, 8, 8]"], str(program)
        b, c = self.peers(network, tmp_path, "b", "c")
        agree(a, b, c)
        program.tell("end")
        assert program.wait() == 0
        program.close()
        a.stop()
        assert call_lasting(network["c"]) == [8, 8, 8, 8]

    @pytest.mark.slow
    def test_a_large_folder_comes_while_the_host_leaves_to_one_that_has_joined_when_the_program_was_over(
        self, lan: MakeLan, tmp_path: Path
    ) -> None:
        network = lan("a", "b")
        (a,) = self.peers(network, tmp_path, "a")
        run_lasting(network["a"], tmp_path / "program", data_bytes=20 * MEBIBYTE)
        (b,) = self.peers(network, tmp_path, "b")
        agree(a, b)
        a.stop()
        assert call_lasting(network["b"]) == [8, 8, 8, 8]

    @pytest.mark.slow
    @pytest.mark.fault(5)
    def test_an_heir_has_it_when_their_host_dies_and_the_next_one_when_the_heir_is_stopped(
        self, lan: MakeLan, tmp_path: Path
    ) -> None:
        network = lan("a", "b", "c")
        a, b, c = self.peers(network, tmp_path, "a", "b", "c")
        agree(a, b, c)
        run_lasting(network["a"], tmp_path / "program", data_bytes=2 * MEBIBYTE, max_restarts=-1)
        until(lambda: all(peer.status()["store"]["copies"]["whole"] for peer in (b, c)), "both heirs have it")
        network["a"].power_off()
        agree(b, c)
        assert call_lasting(network["c"]) == [8, 8, 8, 8]
        b.stop()
        told = call_lasting(network["c"])
        assert sorted(set(told)) == [8, 9], "those that were with b begin anew at c, with the folder from there"

    @pytest.mark.slow
    def test_a_program_that_has_not_packed_its_folder_yet_does_so_before_it_ends(
        self, lan: MakeLan, tmp_path: Path
    ) -> None:
        network = lan("a", "b")
        a, b = self.peers(network, tmp_path, "a", "b")
        agree(a, b)
        write_lasting(tmp_path / "program", data_bytes=20 * MEBIBYTE)
        network["a"].run(sys.executable, str(tmp_path / "program" / "main.py"), "{}", "at once", timeout_s=90)
        a.stop()
        assert all(count in (8, 9) for count in call_lasting(network["b"])), "what it had called may run there"

    @pytest.mark.slow
    @pytest.mark.fault(16)
    def test_without_a_folder_they_start_all_the_same_on_a_host_that_joined_when_their_program_was_killed(
        self, lan: MakeLan, tmp_path: Path
    ) -> None:
        network = lan("a", "b")
        (a,) = self.peers(network, tmp_path, "a")
        folder = tmp_path / "program"
        folder.mkdir()
        (folder / "main.py").write_text(KILLED.lstrip())
        (folder / "data.bin").write_bytes(bytes(60 * MEBIBYTE))
        network["a"].run(sys.executable, str(folder / "main.py"), status=-9)
        until(lambda: a.logged("the program has ended before its folder was packed") == 1, f"{a.program}")
        (b,) = self.peers(network, tmp_path, "b")
        agree(a, b)
        a.stop()
        assert call_lasting(network["b"]) == [8, 8, 8, 8]

    @pytest.mark.slow
    def test_they_start_on_a_host_that_is_not_the_heir(self, lan: MakeLan, tmp_path: Path) -> None:
        """It alone has what they need, and knows nothing of their program. (It comes later: on a busy machine one of
        them would have moved there before it had begun, and would count on.)"""
        network = lan("a", "b", "c")
        slots = ("--resources", '{"slot": 4}')
        a, b = self.peers(network, tmp_path, "a", "b", a=slots)
        agree(a, b)
        run_lasting(network["a"], tmp_path / "program", resources={"slot": 1})
        (c,) = self.peers(network, tmp_path, "c", c=slots)
        agree(a, b, c)
        a.stop()
        assert call_lasting(network["b"]) == [8, 8, 8, 8]

    def test_one_whose_files_are_nowhere_ends_and_says_so(self, lan: MakeLan, tmp_path: Path) -> None:
        """(The other host comes later: on a busy machine one of them would have moved there before it had begun.)"""
        beside = tmp_path / "program-beside"
        beside.mkdir()
        (beside / "elsewhere.py").write_text("FIRST = 7\n")
        network = lan("a", "b")
        (a,) = self.peers(network, tmp_path, "a")
        run_lasting(network["a"], tmp_path / "program", "import elsewhere")
        (b,) = self.peers(network, tmp_path, "b")
        agree(a, b)
        a.stop()
        for number, told in enumerate(call_lasting(network["b"])):
            assert f"there is no actor named 'p{number}' in namespace 'app'. The last one has died" in told
            assert "which a worker on host b cannot import: No module named 'elsewhere'" in told
            assert b.logged(f"class Counter named 'p{number}' is dead: its __init__ raised") == 1
