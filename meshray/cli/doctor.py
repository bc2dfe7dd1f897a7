"""`meshray doctor`: what is in the way of a mesh on this host and its network, in plain words.

    doctor.py         this file: the order of the checks, how they are shown, the exit code
    findings.py       what a check gets and gives
    of_host.py        what this host alone decides: key, addresses, port, firewall, clock, shared memory, descriptors
    of_network.py     what others decide as well: multicast, the members, the ways to them

Each check gives findings and raises nothing of its own; what it cannot find out it says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict

import click

from meshray.cli import of_host, of_network
from meshray.cli.client import UnreachableError, Visit
from meshray.cli.findings import Finding, Level, Patient
from meshray.local import find_peers
from meshray.observe.notes import printable

_MARKS: dict[Level, str] = {"good": "ok", "unknown": "?", "warning": "WARNING", "bad": "BAD"}


def doctor(as_json: bool) -> int:
    """Look at everything and print it; the exit code: 1 when something is bad."""
    patient = find_patient()
    checks: list[Callable[[Patient], Iterable[Finding]]] = [*of_host.CHECKS, *of_network.CHECKS]
    findings: list[Finding] = []
    for check in checks:
        for finding in check(patient):
            findings.append(finding)
            if not as_json:
                click.echo(describe(finding))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        click.echo(_summary(patient, findings))
    return 1 if any(finding.level == "bad" for finding in findings) else 0


def find_patient() -> Patient:
    """The first member of this host, and what it says."""
    for record in find_peers():
        if record.mesh_port:
            try:
                with Visit(record) as visit:
                    return Patient(record, visit.ask("status")["mesh"] or {})
            except UnreachableError as error:
                return Patient(record, trouble=str(error))
    return Patient(None)


def describe(finding: Finding) -> str:
    """For people: one line, and one for what mends it."""
    line = f"{_MARKS[finding.level]:>7}  {printable(f'{finding.about}: {finding.text}')}"  # some is in others' words
    return f"{line}\n         -> {finding.hint}" if finding.hint else line


def _summary(patient: Patient, findings: list[Finding]) -> str:
    """What all of it means. That a mesh works is shown by other members alone."""
    bad = sum(finding.level == "bad" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    if bad:
        what = "What is marked BAD keeps" if bad == 1 else f"The {bad} things that are marked BAD keep"
        return f"\n{what} a mesh from working here."
    above = ", with what is said above" if warnings else ""
    others = len(patient.others())
    if others:
        are = "1 other member is" if others == 1 else f"{others} other members are"
        return f"\nA mesh works here{above}: {are} there."
    if patient.mesh:
        why = "; why may be said above" if warnings else ""
        return f"\nWhether a mesh works here is not shown: the peer of this host is alone in its mesh{why}."
    return (
        f"\nNothing on this host keeps a mesh from working{above}. More is shown when peers run, here and on another "
        "host."
    )
