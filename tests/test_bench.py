"""The bench keeps its books right. No test asserts a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import microbench, report, turns
from bench.child import Report
from bench.director import Director, Results
from bench.plan import (
    GROUPS,
    IN_TURN,
    LAN_GROUPS,
    MACHINE,
    PING_PONG,
    RIVALS,
    ROWS,
    TASKS_ASYNC,
    TO_FIVE,
    TO_ONE,
    Row,
    rows_of,
)
from bench.subjects import SUBJECTS
from bench.timing import FULL, Figure, Pace, middle, rate, summary

PACE = Pace(warm_up_s=0.01, window_s=0.01, windows=2, scale=0.01, blocks=4, repeats=1)


def row_named(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def results_of(figures: dict[tuple[str, str], float]) -> Results:
    results = Results("scripts/bench")
    results.versions = {subject: "1" for _, subject in figures}
    results.figures = {key: Figure(value, value, value) for key, value in figures.items()}
    return results


def test_rows_have_names_of_their_own_and_known_subjects() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(subject in SUBJECTS for row in ROWS for subject in row.subjects)
    assert set(RIVALS) < set(SUBJECTS)


def test_goals_name_rows_and_rivals_that_exist() -> None:
    names = {row.name for row in ROWS}
    for row in ROWS:
        if row.goal is not None:
            given = [row.goal.rival, row.goal.limit, row.goal.at_most, row.goal.at_least]
            assert sum(map(bool, given)) == 1, row.name
            assert not row.goal.rival or row.goal.rival in row.subjects, row.name
            assert not row.goal.limit or row.goal.limit in names, row.name


def test_every_row_of_the_microbenchmark_is_built() -> None:
    for group, builders in microbench.BUILDERS.items():
        assert set(builders) == {row.name for row in ROWS if row.group == group}


def test_patterns_choose_rows_and_groups() -> None:
    assert [row.name for row in rows_of("tasks", "meshray", ["tasks sync"])] == ["single client tasks sync"]
    two = rows_of("tasks", "meshray", ["tasks sync", "client tasks async"])
    assert [row.name for row in two][:2] == ["single client tasks sync", "single client tasks async"]
    assert rows_of("limits", MACHINE, ["limits"]) == [row for row in ROWS if row.group == "limits"]
    assert rows_of("limits", "meshray") == []
    assert {row.group for row in ROWS} == {*GROUPS, *LAN_GROUPS}
    assert set(GROUPS).isdisjoint(LAN_GROUPS)


def test_a_rate_counts_what_a_call_stands_for() -> None:
    calls: list[int] = []
    one = rate(lambda: calls.append(1), 1, PACE)
    assert one.low <= one.value <= one.high
    assert len(calls) > PACE.windows
    assert FULL.windows == 4


def test_a_summary_is_the_median_and_the_quartiles() -> None:
    figure = summary([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (figure.low, figure.value, figure.high) == (1.5, 3.0, 4.5)
    assert summary([2.0, 1.0]) == Figure(1.5, 1.0, 2.0)


def test_ratios_say_how_many_times_better() -> None:
    assert report.ratio(row_named(TASKS_ASYNC), Figure(60, 60, 60), Figure(20, 20, 20)) == 3
    assert report.ratio(row_named("import"), Figure(0.1, 0, 1), Figure(0.4, 0, 1)) == 4
    added = row_named("one task, added to a ping-pong")
    assert report.ratio(added, Figure(-50, -60, -40), Figure(1000, 900, 1100)) == float("inf")


def test_goals_are_judged_only_where_the_run_can_say() -> None:
    results = results_of(
        {
            ("multi client tasks async", "meshray"): 100.0,
            ("multi client tasks async", "ray"): 10.0,
            ("import", "meshray"): 0.05,
        }
    )
    assert report.reached(row_named("multi client tasks async"), results) is False
    assert report.reached(row_named("import"), results) is True
    assert report.reached(row_named("1:1 actor calls async"), results) is None
    assert report.reached(row_named("single client tasks sync"), results) is None


def test_the_table_has_every_measured_row_and_every_failure() -> None:
    results = results_of({(PING_PONG, MACHINE): 5000.0, (TASKS_ASYNC, "meshray"): 100.0, (TASKS_ASYNC, "ray"): 1.0})
    results.errors["import", "meshray"] = "the process ended\nwith 1 | 2" + "x" * 1000
    heading, table = report.cells(results)
    assert heading[:5] == ["row", "unit", "meshray", "ray", "x ray"]
    assert [line[0] for line in table] == [PING_PONG, "import", TASKS_ASYNC]
    assert table[1][2] == "failed"
    assert table[1][-1].startswith("meshray failed: the process ended with 1 / 2xxx")
    assert len(table[1][-1]) < 200
    assert table[2][2:5] == ["100", "1", "100"]
    assert all(len(line) == len(heading) for line in table)
    assert report.as_markdown(results).count("\n|") == 2 + len(table)
    assert "5,000" in report.as_text(results)
    document = json.loads(report.as_json(results))
    assert {figure["row"] for figure in document["figures"]} == {PING_PONG, TASKS_ASYNC}


def test_the_table_goes_to_its_place_in_a_document(tmp_path: Path) -> None:
    results = results_of({("import", "meshray"): 0.05})
    document = tmp_path / "page.md"
    document.write_text(f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n")
    for _ in range(2):
        report.write_markdown(results, document)
    text = document.read_text()
    assert text.startswith(f"above\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nbelow\n")
    assert "old" not in text
    assert text.count("| import |") == 1
    report.write_markdown(results, tmp_path / "new.md")
    assert (tmp_path / "new.md").read_text() == report.as_markdown(results)


def test_tables_between_hosts_have_a_place_of_their_own(tmp_path: Path) -> None:
    results = results_of({("import", "meshray"): 0.05})
    document = tmp_path / "page.md"
    document.write_text(f"{report.BEGIN}\nold\n{report.END}\n{report.LAN_BEGIN}\nold too\n{report.LAN_END}\n")
    report.write_markdown(results, document, report.LAN_BEGIN, report.LAN_END)
    text = document.read_text()
    assert text.startswith(f"{report.BEGIN}\nold\n{report.END}\n{report.LAN_BEGIN}\n\n")
    assert "old too" not in text
    assert "| import |" in text


def test_goals_of_rows_that_are_better_when_lower() -> None:
    row = row_named(TO_FIVE)
    assert row.goal is not None
    assert row.goal.text(row.unit) == f"<= 2x “{TO_ONE}”"
    assert report.reached(row, results_of({(TO_FIVE, "meshray"): 20.0, (TO_ONE, "meshray"): 11.0})) is True
    assert report.reached(row, results_of({(TO_FIVE, "meshray"): 23.0, (TO_ONE, "meshray"): 11.0})) is False


def test_goals_of_rows_that_are_ratios() -> None:
    row = row_named(IN_TURN)
    assert row.goal is not None
    assert row.goal.text(row.unit) == ">= 20 x"
    assert report.reached(row, results_of({(IN_TURN, "meshray"): 20.0})) is True
    assert report.reached(row, results_of({(IN_TURN, "meshray"): 19.9})) is False


def test_in_turn_the_median_of_the_pairs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("bench.turns.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def works(seconds: float) -> Callable[[], None]:
        def call() -> None:
            clock[0] += seconds

        return call

    figure = turns.in_turn(works(0.5), works(2.0), FULL)
    assert (figure.low, figure.value, figure.high) == (4.0, 4.0, 4.0)
    assert figure.note == "2,000 against 500 /s, 40 pairs of 0.5 s, quartiles 4 and 4"


def test_a_failing_row_is_reported_and_the_next_one_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "report.jsonl"
    reporter = Report(out, ["a", "b"])

    def fail() -> Figure:
        raise RuntimeError("no")

    reporter.row("a", fail)
    reporter.row("b", lambda: Figure(1, 1, 1))
    reporter.row("unwanted", fail)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line.get("row") for line in lines if "begin" not in line] == ["a", "b"]
    assert lines[1]["error"] == "RuntimeError: no"
    assert lines[3]["value"] == 1


def test_of_several_rounds_the_median_counts_with_all_that_was_seen() -> None:
    rounds = [Figure(value, value - 1, value + 1, f"round of {value}") for value in (30.0, 10.0, 20.0)]
    assert middle(rounds) == Figure(20.0, 9.0, 31.0, "round of 20.0")
    assert middle(rounds[:2]).value == 20.0
    assert middle(rounds[:1]) == rounds[0]


def test_the_director_runs_a_child_and_gathers_its_figures() -> None:
    results = Results("scripts/bench")
    results.versions = {MACHINE: "1"}
    told: list[str] = []
    Director(results, quick=True, row_limit_s=60, tell=told.append).run([MACHINE], ["*ping-pong over ipc*"])
    assert list(results.figures) == [(PING_PONG, MACHINE)]
    assert len(told) == 1
