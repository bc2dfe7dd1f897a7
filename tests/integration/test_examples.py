"""The examples run, and print what they promise."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

import psutil
import pytest

from tests.leaks import STORE_ROOT
from tests.until import until

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

RUN_NOTEBOOK = """
import sys
import nbclient, nbformat

notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=60).execute()
for cell in notebook.cells:
    for part in cell.get("outputs", []):
        print(part.get("text", ""), end="")
"""


def run(name: str, *arguments: str, folder: Path) -> str:
    """Runs an example from `folder`, which is not the checkout: a user's program stands anywhere."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def test_tasks(tmp_path: Path) -> None:
    output = run("tutorial_1_tasks.py", folder=tmp_path)
    serial = re.search(r"serial: +\[0, 1, 2, 3, 4\] in ([\d.]+) s", output)
    parallel = re.search(r"parallel: +\[0, 1, 2, 3, 4\] in ([\d.]+) s", output)
    assert serial, output
    assert parallel, output
    # Five sleeps of one second that do not overlap take five seconds on the fastest machine.
    assert float(parallel[1]) < float(serial[1])


def test_objects(tmp_path: Path) -> None:
    output = run("tutorial_2_objects.py", folder=tmp_path)
    assert len(re.findall(r"ObjectRef\([0-9a-f]+\)", output)) == 2
    assert "[161. 172. 183. 194. 205.]" in output
    assert "and in total: 2310.0" in output
    assert "[499999500000.0, 499999500000.0, 499999500000.0]" in output


def test_actors(tmp_path: Path) -> None:
    output = run("tutorial_3_actors.py", folder=tmp_path)
    assert re.search(r"Actor\(MethodStateCounter, [0-9a-f]+\)", output)
    assert len(re.findall(r"called by [ABC]: ObjectRef\([0-9a-f]+\) = \d+", output)) == 10
    counts = re.search(r"all calls: \{'A': (\d+), 'B': (\d+), 'C': (\d+)\}", output)
    assert counts, output
    assert sum(map(int, counts.groups())) == 20


def test_mandelbrot(tmp_path: Path) -> None:
    output = run("mandelbrot.py", "--samples", "2", "--iterations", "100", folder=tmp_path)
    assert "96 tiles in" in output


def meshray(*words: str) -> None:
    command = [sys.executable, "-m", "meshray.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def standing() -> Iterator[None]:
    """A peer that `meshray start` left running."""
    meshray("start", "--local", "--preset", "test", "--num-cpus", "3")
    yield
    meshray("stop", "--all")


def test_beside_a_peer(standing: None, tmp_path: Path) -> None:
    """All programs of the tutorial, at once: none may assume that it is alone."""
    programs = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(path)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for path in sorted(EXAMPLES.glob("tutorial_*.py"))
    ]
    assert len(programs) == 3
    said = [program.communicate(timeout=90) for program in programs]
    assert [program.returncode for program in programs] == [0, 0, 0], said
    assert not any(errors for _, errors in said), said


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files, with a short name. When the test has ended it is empty, and nobody uses it."""
    folder = Path(mkdtemp(prefix="ex"))
    yield folder
    until(lambda: not users_of(folder), f"nobody uses {folder}")
    folder.rmdir()  # it is empty


def users_of(folder: Path) -> list[str]:
    """Processes that have this folder for their temporary files."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("TMPDIR") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.cmdline()}")
    return found


def mesh_program(*arguments: str, scratch: Path) -> subprocess.Popen[str]:
    """`mesh.py`, in a process group of its own as in a terminal."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / "mesh.py"), "--preset", "test", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}, process_group=0,
    )  # fmt: skip


def stores_of(output: str) -> list[Path]:
    """What is left in shared memory of the nodes that are named."""
    nodes = re.findall(r"node ([0-9a-f]{16}) at", output)
    assert len(nodes) == 3, output
    return [STORE_ROOT / node for node in nodes if (STORE_ROOT / node).exists()]


def test_mesh(scratch: Path) -> None:
    with mesh_program("--samples", "3", "--iterations", "100", scratch=scratch) as program:
        output, errors = program.communicate(timeout=90)
    assert program.returncode == 0, output + errors
    told = [line.removeprefix("meshray: host edsger is ") for line in errors.splitlines()]
    assert [words.split(":")[0] for words in told] in (["not answering", "dead"], ["dead"]), errors
    made = re.search(r"96 tiles in [\d.]+ s: ada (\d+), grace (\d+), edsger (\d+)", output)
    assert made, output
    assert sum(map(int, made.groups())) == 96
    assert re.search(r"edsger was killed after [\d.]+ s, with \d+ tiles done", output), output
    assert "All 96 tiles are, bit for bit, what this process computes by itself" in output
    assert stores_of(output) == []


def test_mesh_that_is_interrupted(scratch: Path) -> None:
    with mesh_program("--samples", "100", scratch=scratch) as program:
        assert program.stdout is not None
        output = "".join(program.stdout.readline() for _ in range(4))  # up to the last greeting
        os.killpg(program.pid, signal.SIGINT)
        rest, errors = program.communicate(timeout=60)
    assert program.returncode == 130, output + rest + errors
    assert not errors, errors
    assert stores_of(output) == []


def test_notebook() -> None:
    for package in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(package)
    done = subprocess.run(
        [sys.executable, "-c", RUN_NOTEBOOK, "tutorial.ipynb"],
        cwd=EXAMPLES,  # where people open it
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    output = done.stdout
    assert done.returncode == 0, output + done.stderr
    assert "parallel: [0, 1, 2, 3, 4] in" in output
    assert "in total: 2310.0" in output
    assert re.search(r"Actor\(MethodStateCounter, [0-9a-f]+\)", output)
