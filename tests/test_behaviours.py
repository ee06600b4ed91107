"""Every behaviour that is promised has its row, its marks in the tests, and tests that ran."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests import behaviours

ROOT = Path(__file__).parents[1]
ROWS = behaviours.read()

DUE = {
    *(f"S{number}" for number in range(1, 23)),
    *(f"D{number}" for number in range(1, 12)),
    *(f"L{number}" for number in range(1, 19)),
    *(f"P{number}" for number in range(1, 14)),
    *(f"H{number}" for number in range(1, 7)),
    *(f"C{number}" for number in range(1, 16)),
    *(f"T{number}" for number in range(1, 9)),
    *(f"F{number}" for number in range(1, 9)),
    "W1",
}


@cache
def marks() -> dict[str, set[Path]]:
    """The files whose comments and docstrings name a behaviour, by its number."""
    found: dict[str, set[Path]] = {}
    for path in Path(__file__).parent.rglob("test_*.py"):
        if path != Path(__file__) and "node_modules" not in path.parts:
            for number in re.findall(r"\bB-([A-Z]\d+)\b", path.read_text()):
                found.setdefault(number, set()).add(path)
    return found


def test_every_behaviour_that_is_due_has_one_row() -> None:
    numbers = [row.number for row in ROWS]
    assert len(numbers) == len(set(numbers))
    assert not DUE - set(numbers)


def test_marks_and_rows_name_the_same_behaviours() -> None:
    assert set(marks()) == {row.number for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)
def test_a_row_names_tests_that_exist_and_bear_its_mark(row: behaviours.Behaviour) -> None:
    assert row.sentence.endswith(".")
    assert row.tests
    for test in row.tests:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        functions = [item for item in tree.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert name in [function.name for function in functions], f"{path} has no {name}"
        assert ROOT / path in marks()[row.number], f"{path} does not name B-{row.number}"


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("def test_it(): pass", 0, ""),
        ("def test_other(): pass", 1, "X1: test_x.py::test_it"),
        ("import pytest\n@pytest.mark.skip\ndef test_it(): pass", 1, "X1: test_x.py::test_it"),
        ("import pytest\n@pytest.mark.parametrize('n', [1, 2])\ndef test_it(n): pass", 0, ""),
        ("def test_it(): assert False", 1, ""),
    ],
    ids=["ran", "lost", "skipped", "with parameters", "failed"],
)
def test_a_run_without_a_named_test_fails(tmp_path: Path, body: str, code: int, said: str) -> None:
    (tmp_path / "test_x.py").write_text(f"{body}\n")
    (tmp_path / "rows.tsv").write_text("# comment\nX1\tIt holds.\ttest_x.py::test_it\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.behaviours",
        "--behaviours",
        "rows.tsv",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "-c", "/dev/null", "--rootdir", "."],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout
    assert ("behaviours without their test" in done.stdout) == bool(said)
