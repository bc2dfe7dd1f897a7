"""The examples run, and print what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
