"""Rules of this repository that no other tool checks."""

from __future__ import annotations

import configparser
import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshray.cli.commands import meshray as command
from meshray.cli.members import describe_mesh
from meshray.config import DEFAULT
from tests import catalogue

ROOT = Path(__file__).parent.parent
CONFORMANCE = ROOT / "docs" / "conformance.md"
TEST_NAME = re.compile(r"`(tests/[\w/]+\.py::[\w:]+)`")


def test_the_catalogue_is_read_whole() -> None:
    assert sorted(catalogue.entries()) == list(range(1, 66))


def test_fault_marks_name_entries_of_the_catalogue() -> None:
    unknown = {n: tests for n, tests in catalogue.marked_tests().items() if n not in catalogue.entries()}
    assert not unknown


def test_every_fault_in_scope_has_a_test() -> None:
    missing = {n: catalogue.entries()[n][0] for n in catalogue.without_test()}
    assert not missing


def test_the_tests_that_conformance_names_exist() -> None:
    named = set(TEST_NAME.findall(CONFORMANCE.read_text(encoding="utf-8")))
    assert named, f"{CONFORMANCE} names no test"
    assert not named - catalogue.all_tests()


def test_every_sentence_of_conformance_names_a_test() -> None:
    rows = [line for line in CONFORMANCE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    headings = {"| sentence | shown by |", "| what | shown by |"}
    assert [row for row in rows if not TEST_NAME.search(row) and row not in headings] == []


def test_every_example_is_run_by_a_test() -> None:
    source = (ROOT / "tests" / "integration" / "test_examples.py").read_text(encoding="utf-8")
    programs = sorted(path.name for path in (ROOT / "examples").iterdir() if path.suffix in {".py", ".ipynb"})
    assert programs
    assert [name for name in programs if name not in source] == []


def test_notebooks_are_stored_without_output() -> None:
    for path in (ROOT / "examples").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells), path


@pytest.mark.parametrize("name", ["test", "check", "demo", "format", "bench", "stress", "../.ci/run"])
def test_scripts_can_be_run(name: str) -> None:
    assert os.access(ROOT / "scripts" / name, os.X_OK)


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {link}"
        for document in documents
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
        if not (document.parent / link).exists()
    ]
    assert not broken


def test_the_unit_for_systemd_starts_what_there_is() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "docs" / "meshray.service", encoding="utf-8")
    words = unit["Service"]["ExecStart"].split()
    assert words[:3] == ["/usr/bin/env", "meshray", "start"]
    assert CliRunner().invoke(command, [*words[2:], "--help"]).exit_code == 0
    drain_s = DEFAULT.leave_work_s + DEFAULT.leave_end_s + DEFAULT.leave_move_s + DEFAULT.leave_say_s
    assert float(unit["Service"]["TimeoutStopSec"]) > drain_s, "it is killed while it drains"


@pytest.mark.parametrize("members", [1, 2, 13])
def test_the_script_for_slurm_waits_for_what_status_says(members: int) -> None:
    page = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    (pattern,) = re.findall(r'grep -Eq "([^"]+)"', page)
    member = {
        "state": "alive", "leaving": False, "since_s": 1.0, "is_self": True, "name": "a", "home": "00", "node_id": "00",
        "python": "3.11", "incompatible": False, "total": {}, "used": {}, "store_total_bytes": 0, "version": "0.1.0",
        "reachable": True, "reason": "", "guest": False,
    }  # fmt: skip
    mesh = {
        "mesh_id": "00", "listens": ["10.0.0.1:7637"], "members": [member] * members, "next_key_id": "",
        "discovery_trouble": "", "refused": {}, "refused_there": {}, "no_link": {}, "dropped_records": {},
        "other_key": 0, "refused_ago_s": {}, "refused_there_ago_s": {},
    }  # fmt: skip
    text = "\n".join(describe_mesh(mesh, str, lambda name, amount: str(amount)))
    assert re.search(pattern.replace("$SLURM_NNODES", str(members)), text)
    assert not re.search(pattern.replace("$SLURM_NNODES", "3"), text)


def test_commands_that_the_pages_name_are_there() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    named = {
        (page.name, *words.split())
        for page in pages
        for words in re.findall(r"meshray ((?:key )?[a-z]+)(?= |`|$)", page.read_text(encoding="utf-8"), re.M)
        if f"`meshray {words}" in page.read_text(encoding="utf-8")
    }
    assert len(named) > 10
    for page, *words in sorted(named):
        assert CliRunner().invoke(command, [*words, "--help"]).exit_code == 0, (page, words)
