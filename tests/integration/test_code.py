"""The code that workers see is the code that the driver sees: scripts, modules beside them, `python -m`, `__main__`."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

RUN_S = 60

BESIDE = """
import os
WHERE = os.path.abspath(__file__)

class Shape:
    def __init__(self, n):
        self.n = n

def area(shape):
    return shape.n ** 2
"""

SCRIPT = """
import os, sys
import numpy as np
import meshray as ray
from {package}beside import Shape, area, WHERE

FACTOR = 3

class Stop(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code

class Sub(Stop):
    pass

class Point:
    def __init__(self, x):
        self.x = x
    def __eq__(self, other):
        return type(other) is Point and other.x == self.x

@ray.remote
def with_globals(shape):
    import {package}beside as beside
    assert beside.WHERE == WHERE
    return FACTOR * area(shape), os.getcwd(), sys.argv[0]

@ray.remote
def factorial(n):
    return 1 if n <= 1 else n * ray.get(factorial.remote(n - 1))

@ray.remote(max_retries=5, retry_exceptions=[Stop])
def flaky(path):
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 3:
        raise Sub(7)
    return Point(os.path.getsize(path))

@ray.remote
class Counter:
    def __init__(self, start):
        self.point = Point(start)
    def add(self, n):
        self.point.x += n
        return self.point

@ray.remote
def fail():
    raise Sub(9)

def main():
    ray.init(num_cpus=2)
    area_, folder, argv = ray.get(with_globals.remote(Shape(4)), timeout=30)
    assert area_ == 48, area_
    assert folder == os.getcwd(), folder
    assert ray.get(factorial.remote(6), timeout=30) == 720
    assert ray.get(flaky.remote(sys.argv[1]), timeout=30) == Point(3)
    counter = Counter.remote(1)
    assert ray.get(counter.add.remote(2), timeout=30) == Point(3)
    assert ray.get(ray.put(Point(1))) == Point(1)
    try:
        ray.get(fail.remote(), timeout=30)
    except Stop as error:
        assert type(error.cause) is Sub and error.code == 9
    print("done", flush=True)

if __name__ == "__main__":
    main()
"""


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    here = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": here}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )


def assert_done(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "done" in ended.stdout


def test_a_script_run_from_another_folder(tmp_path: Path) -> None:
    program, elsewhere = tmp_path / "program", tmp_path / "elsewhere"
    program.mkdir()
    elsewhere.mkdir()
    (program / "beside.py").write_text(BESIDE)
    (program / "script.py").write_text(SCRIPT.format(package=""))
    assert_done(run(["../program/script.py", str(tmp_path / "count")], elsewhere))


def test_a_traceback_shows_the_lines_of_the_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import meshray as ray\n"
        "@ray.remote\n"
        "def divide(x):\n"
        "    return 1 / x  # here\n"
        "ray.get(divide.remote(0), timeout=30)\n"
    )
    ended = run([str(script)], tmp_path)
    assert ended.returncode == 1
    assert f'File "{script}", line 4, in divide\n    return 1 / x  # here\n' in ended.stderr


def test_a_package_run_with_m(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "beside.py").write_text(BESIDE)
    (package / "script.py").write_text(SCRIPT.format(package="package."))
    assert_done(run(["-m", "package.script", str(tmp_path / "count")], tmp_path))


def test_a_program_from_standard_input(tmp_path: Path) -> None:
    program = """
        import meshray as ray

        class Local(Exception):
            pass

        @ray.remote
        def double(n):
            if n < 0:
                raise Local(n)
            return 2 * n

        print(ray.get([double.remote(n) for n in range(3)], timeout=30))
        try:
            ray.get(double.remote(-1), timeout=30)
        except Local:
            print("done")
        """
    ended = run(["-c", textwrap.dedent(program)], tmp_path)
    assert_done(ended)
    assert "[0, 2, 4]" in ended.stdout


def test_a_module_imported_before_a_change_of_sys_path(tmp_path: Path) -> None:
    """What the script itself puts on its path before `init` is on the workers' path."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "added.py").write_text("def value():\n    return 5\n")
    program = f"""
        import sys
        sys.path.append({str(library)!r})
        import meshray as ray
        import added
        assert ray.get(ray.remote(added.value).remote(), timeout=30) == 5
        print("done")
        """
    (tmp_path / "script.py").write_text(textwrap.dedent(program))
    assert_done(run(["script.py"], tmp_path))


@pytest.mark.parametrize("how", ["shutdown", "end", "exception"])
def test_the_last_prints_and_errors_arrive(tmp_path: Path, how: str) -> None:
    program = f"""
        import meshray as ray
        ray.init(num_cpus=2)

        @ray.remote
        def speak(n):
            print("line", n)
            if n == 3:
                raise ValueError("nobody looks")

        refs = [speak.remote(n) for n in range(10)]
        ray.wait(refs, num_returns=10, timeout=30)
        if {how!r} == "shutdown":
            ray.shutdown()
            print("after shutdown")
        if {how!r} == "exception":
            raise KeyError("of the program")
        """
    ended = run(["-c", textwrap.dedent(program)], tmp_path)
    assert ended.returncode == (how == "exception")
    for n in range(10):
        assert f") line {n}\n" in ended.stdout, ended.stdout
    if how == "shutdown":
        assert ended.stdout.rstrip().endswith("after shutdown")
    assert ended.stderr.count("nobody fetched the error of speak: ValueError: nobody looks") == 1, ended.stderr
