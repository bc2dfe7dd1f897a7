"""The catalogue of faults and the tests that show them.

`docs/failure-model.md` numbers what may go wrong; a test of an entry is marked `@pytest.mark.fault(n, ...)`. This file
reads both. `python -m tests.catalogue` lists the entries in scope that no test shows.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parent
CATALOGUE = TESTS.parent / "docs" / "failure-model.md"

ENTRY = re.compile(r"^\| *(\d+) *\| *(.+?) *\| *(yes|later) *\|$", re.MULTILINE)


def entries() -> dict[int, tuple[str, bool]]:
    """Number of each entry -> what goes wrong, and whether this version answers for it."""
    text = CATALOGUE.read_text(encoding="utf-8")
    return {int(number): (what, scope != "later") for number, what, scope in ENTRY.findall(text)}


def marked_tests() -> dict[int, list[str]]:
    """Number of an entry -> the tests marked with it, as `file::test`. Reads the sources; imports nothing."""
    found: dict[int, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for scope, decorators in _decorated(ast.parse(path.read_text(encoding="utf-8"))):
            for number in _fault_numbers(decorators):
                found[number].append(f"{path.relative_to(TESTS.parent).as_posix()}::{scope}")
    return dict(found)


def all_tests() -> set[str]:
    """Every test as `path::test` or `path::Class::test`."""
    found = set()
    for path in sorted(TESTS.rglob("test_*.py")):
        name = path.relative_to(TESTS.parent).as_posix()
        for scope, _ in _decorated(ast.parse(path.read_text(encoding="utf-8"))):
            found.add(f"{name}::{scope}")
    return found


def without_test() -> list[int]:
    """Entries in scope that no test is marked with."""
    shown = marked_tests()
    return [number for number, (_, in_scope) in entries().items() if in_scope and number not in shown]


def _decorated(tree: ast.Module) -> list[tuple[str, list[ast.expr]]]:
    """Each test function and the decorators that hold for it, its class's and the module's `pytestmark` included."""
    module_marks = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)
    ]
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            found.append((node.name, module_marks + node.decorator_list))
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            found += [
                (f"{node.name}::{method.name}", module_marks + node.decorator_list + method.decorator_list)
                for method in node.body
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and method.name.startswith("test")
            ]
        elif isinstance(node, ast.Assign) and _is_state_machine(node):
            target = node.targets[0]
            assert isinstance(target, ast.Name)
            found.append((target.id, module_marks))
    return found


def _is_state_machine(node: ast.Assign) -> bool:
    """`TestX = Machine.TestCase`, as hypothesis's stateful tests are written."""
    target = node.targets[0]
    return (
        isinstance(target, ast.Name)
        and target.id.startswith("Test")
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "TestCase"
    )


def _fault_numbers(decorators: list[ast.expr]) -> list[int]:
    return [
        argument.value
        for decorator in decorators
        for call in ast.walk(decorator)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "fault"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int)
    ]


def main() -> None:
    known, shown = entries(), marked_tests()
    in_scope = [number for number, (_, yes) in known.items() if yes]
    missing = without_test()
    print(f"{len(in_scope) - len(missing)} of the {len(in_scope)} faults in scope have a test ({len(shown)} in all)")
    for number in missing:
        print(f"  without a test: {number} {known[number][0]}")


if __name__ == "__main__":
    main()
