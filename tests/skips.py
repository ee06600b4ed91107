"""A plugin: where CI is set, a test that is skipped fails the run, for what a test needs is installed there.

A reason that begins with "this machine" names what cannot be installed, such as IPv6.
"""

from __future__ import annotations

import os
from typing import Any

import pytest


class Watch:
    """Sees the reports of a run. Under pytest-xdist, reports of tests arrive where the run is controlled; modules that
    are skipped as a whole are known to the workers alone, which send them along at their end."""

    def __init__(self, config: pytest.Config) -> None:
        self.skipped: list[str] = []
        self._worker: dict[str, list[str]] | None = getattr(config, "workeroutput", None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._worker is None and not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            if not reason.startswith("this machine"):
                self.skipped.append(f"{report.nodeid}: {reason}")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker has ended."""
        found = getattr(node, "workeroutput", {}).get("skipped", [])
        self.skipped += [line for line in found if line not in self.skipped]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._worker is not None:
            self._worker["skipped"] = self.skipped
        elif self.skipped and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.skipped:
            terminalreporter.section("skipped where CI is set")
            for line in self.skipped:
                terminalreporter.line(f"  {line}")


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI"):
        config.pluginmanager.register(Watch(config))
