"""What the router promises, by number: `behaviours.tsv`, and a plugin that wants each named test to have passed.

A whole run (`pytest` without paths, `-k` or `-m`) that is otherwise green fails if a test that the file names did not
pass: it was skipped, deselected, renamed, or lost. `--behaviours FILE` demands it of any run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("behaviours.tsv")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`number` is as in `# B-S6`; `tests` are ids such as `tests/pool/test_pool.py::test_name`, without parameters."""

    number: str
    sentence: str
    tests: tuple[str, ...]


def read(path: Path = FILE) -> list[Behaviour]:
    """Raises ValueError for a line without three columns."""
    rows = [line.split("\t") for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [Behaviour(number, sentence, tuple(tests.split())) for number, sentence, tests in rows]


class Watch:
    """Sees the reports of a run; under pytest-xdist those of all workers arrive where the run is controlled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed: set[str] = set()
        self.missing: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid.partition("[")[0].partition("@")[0])

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus != pytest.ExitCode.OK:
            return
        self.missing = [
            f"{behaviour.number}: {test}"
            for behaviour in read(self.path)
            for test in behaviour.tests
            if test not in self.passed
        ]
        if self.missing:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.missing:
            terminalreporter.section("behaviours without their test")
            terminalreporter.line(f"{self.path.name} names tests that did not pass in this run:")
            for line in self.missing:
                terminalreporter.line(f"  {line}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--behaviours", type=Path, help="a file of behaviours whose tests must all pass in this run")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist sees its own tests alone
        return
    path = config.getoption("--behaviours")
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not any(
        config.getoption(name) for name in ("keyword", "markexpr", "deselect", "collectonly", "ignore", "ignore_glob")
    )
    if path or is_whole:
        config.pluginmanager.register(Watch(path or FILE), "behaviours")
