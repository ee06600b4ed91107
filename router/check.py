"""What `llama-router check` reports: mistakes in preset files, in a file of settings, and in the environment.

Each report is one file, or the environment, with its problems. Nothing is started.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from router import config, variables
from router.config import Config
from router.engine.flags import FlagTable
from router.errors import FlagError, PresetError
from router.models.check import check_file
from router.models.ini import Problem
from router.settings import OPTIONS

ENVIRONMENT = "environment"  # in the place of a file's name


def presets(file: Path, table: FlagTable) -> dict[str, Any]:
    """Raises PresetError if the file cannot be read at all."""
    try:
        found, problems = check_file(file, table)
    except PresetError as exc:
        if not exc.line:
            raise
        return report(file, [], [Problem(exc.line, exc.key, exc.reason)])
    return report(file, [preset.name for preset in found.presets], problems)


def settings(file: Path) -> tuple[Config, dict[str, Any]]:
    """What is right in the file, and the report. Raises FlagError if the file cannot be read at all."""
    found, problems = config.examine(file, OPTIONS)
    every = sorted([*problems, *config.missing_files(found, OPTIONS)], key=lambda problem: problem.line)
    return found, report(file, [], every)


def environment(environ: Mapping[str, str], table: FlagTable) -> Iterator[dict[str, Any]]:
    """One report if there is anything to report."""
    try:
        found = variables.without_effect(environ, OPTIONS, table)
    except FlagError as exc:
        found = [variables.Finding("", exc.message)]
    if problems := [Problem(0, name or None, message, near) for name, message, near in found]:
        yield report(ENVIRONMENT, [], problems)


def report(file: Path | str, models: list[str], problems: Any) -> dict[str, Any]:
    listed = [{"line": p.line, "key": p.key, "message": p.message, "nearest": p.nearest} for p in problems]
    return {"file": str(file), "models": models, "problems": listed}


def lines(report: Mapping[str, Any], *, is_settings: bool) -> Iterator[str]:
    """A report as text."""
    for problem in report["problems"]:
        where = f"{report['file']}:{problem['line']}" if problem["line"] else report["file"]
        yield f"{where}: {problem['message']}"
    if not report["problems"]:
        models = "" if is_settings else f"; models: {', '.join(report['models']) or 'none'}"
        yield f"{report['file']}: no problems{models}"
