"""The table: text, Markdown, JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.director import Results
from bench.plan import MACHINE, ROWS, Goal, Row
from bench.timing import Figure

OURS = "meshray"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
ERROR_MAX = 120  # characters of why a row failed
LAN_BEGIN, LAN_END = "<!-- bench --lan: begin -->", "<!-- bench --lan: end -->"


def ratio(row: Row, ours: Figure, other: Figure) -> float:
    """How many times better ours is; above 1 is better, whatever the unit. Infinite where there is no such number: what
    is less than nothing (a difference, in time added to something) is not so many times less."""
    better, worse = (ours.value, other.value) if row.higher_is_better else (other.value, ours.value)
    return better / worse if worse > 0 else float("inf")


def reached(row: Row, results: Results) -> bool | None:
    """Whether the goal is met; None where this run cannot say."""
    goal, ours = row.goal, results.figures.get((row.name, OURS))
    if goal is None or ours is None:
        return None
    if goal.at_most:
        return ours.value <= goal.at_most
    if goal.at_least:
        return ours.value >= goal.at_least
    other = _measure_of(goal, row, results)
    return None if other is None else ratio(row, ours, other) >= goal.times


def _measure_of(goal: Goal, row: Row, results: Results) -> Figure | None:
    if goal.rival:
        return results.figures.get((row.name, goal.rival))
    return results.figures.get((goal.limit, MACHINE)) or results.figures.get((goal.limit, OURS))


def figure_text(figure: Figure | None) -> str:
    return "" if figure is None else figure.text()


def goal_text(row: Row, results: Results) -> str:
    if row.goal is None:
        return ""
    verdict = {True: "met", False: "SHORT", None: "not measured"}[reached(row, results)]
    if row.goal.limit and (other := _measure_of(row.goal, row, results)):
        ours = results.figures.get((row.name, OURS))
        if ours is not None:
            verdict += f" ({ratio(row, ours, other):.2f})"
    return f"{row.goal.text(row.unit)}: {verdict}"


def cells(results: Results) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows that were measured."""
    rivals = [name for name in results.subjects if name != OURS]
    heading = ["row", "unit", OURS, *(text for name in rivals for text in (name, f"x {name}")), "goal", "note"]
    table = []
    for row in ROWS:
        ours = results.figures.get((row.name, OURS)) or results.figures.get((row.name, MACHINE))
        errors = {name: results.errors.get((row.name, name)) for name in (MACHINE, OURS, *rivals)}
        if ours is None and not any(errors.values()) and not any((row.name, r) in results.figures for r in rivals):
            continue
        line = [row.name, row.unit, figure_text(ours) or ("failed" if errors[OURS] or errors[MACHINE] else "")]
        for name in rivals:
            other = results.figures.get((row.name, name))
            line.append(figure_text(other) or ("failed" if errors[name] else ""))
            line.append(f"{ratio(row, ours, other):.3g}" if ours and other else "")
        notes = [ours.note] if ours and ours.note else []
        notes += [f"{name} failed: {shortened(error)}" for name, error in errors.items() if error]
        line += [goal_text(row, results), "; ".join(notes)]
        table.append(line)
    return heading, table


def shortened(error: str) -> str:
    """What there is room for in a cell."""
    text = " ".join(error.split()).replace("|", "/")
    return text if len(text) <= ERROR_MAX else f"{text[:ERROR_MAX]}..."


def preface(results: Results) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items() if name != MACHINE)
    return [
        f"{results.machine}; {versions}",
        f"`{results.command}`, {results.started}, {results.took_s / 60:.1f} minutes",
    ]


def as_text(results: Results) -> str:
    heading, table = cells(results)
    widths = [max(len(line[column]) for line in [heading, *table]) for column in range(len(heading))]
    lines = [
        "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line[:-2], widths, strict=False)) for line in [heading, *table])
    ]
    tails = ["  ".join(cell for cell in line[-2:] if cell) for line in [heading, *table]]
    return "\n".join([*preface(results), "", *(f"{line}  {tail}" for line, tail in zip(lines, tails, strict=True))])


def as_markdown(results: Results) -> str:
    heading, table = cells(results)
    marks = ["---", "---", *["---:"] * (len(heading) - 4), "---", "---"]
    lines = [f"| {' | '.join(line)} |" for line in (heading, marks, *table)]
    return "\n".join(["  \n".join(preface(results)), "", *lines, ""])


def write_markdown(results: Results, path: Path, begin: str = BEGIN, end: str = END) -> None:
    """Writes the table to `path`; in a document with these marks, between them."""
    table = as_markdown(results)
    document = path.read_text(encoding="utf-8") if path.exists() else ""
    if begin in document and end in document:
        before, rest = document.split(begin, 1)
        _, after = rest.split(end, 1)
        table = f"{before}{begin}\n\n{table}\n{end}{after}"
    path.write_text(table, encoding="utf-8")


def as_json(results: Results) -> str:
    figures = [{"row": row, "subject": subject, **asdict(figure)} for (row, subject), figure in results.figures.items()]
    errors = [{"row": row, "subject": subject, "error": text} for (row, subject), text in results.errors.items()]
    goals = [
        {"row": row.name, "goal": row.goal.text(row.unit), "met": reached(row, results)} for row in ROWS if row.goal
    ]
    document: dict[str, Any] = {
        "machine": results.machine,
        "started": results.started,
        "took_s": results.took_s,
        "command": results.command,
        "versions": results.versions,
        "units": {row.name: row.unit for row in ROWS},
        "figures": figures,
        "errors": errors,
        "goals": goals,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
