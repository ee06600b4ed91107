"""`llama-router check`: mistakes in preset files, in a file of settings, and in the environment.

Each report is one file, or the environment, with its problems. Nothing is started. Called by `commands`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from router import config, settings, variables
from router.config import Config
from router.engine import flags
from router.engine.flags import FlagTable
from router.errors import CatalogError, FlagError, PresetError
from router.hub import cache as hub
from router.logs.letters import visible
from router.models.check import check_files
from router.models.folders import ModelFolders
from router.models.ini import Problem
from router.models.ini_files import paths_of, places_of
from router.options import PATHS, SHOWN_CHARACTERS
from router.plan import known_flags
from router.settings import OPTIONS

ENVIRONMENT = "environment"  # in the place of a file's name
TAKING = ("--engine", "--config", "--models-dir")

Report = dict[str, Any]


def run(argv: list[str], environ: Mapping[str, str]) -> int:
    """The exit code: 1 if there is a mistake; warnings alone are none. Raises ConfigError."""
    options = [option.flag for option in OPTIONS if option.name in TAKING]
    takes = FlagTable([*options, flags.Flag("--json", ("--json",), (), 0, None, repeatable=False)])
    words, args = flags.parse_among_words(argv, takes)
    config_file = settings.config_path(argv, environ)
    if not words and not config_file:
        raise FlagError("check needs a file: llama-router check FILE.ini, or check --config FILE.ini")
    own, of_settings = of_config(config_file) if config_file else (Config(), None)
    table = known_flags(argv, environ, own)
    found = _Found(flags.values_of(args, "--models-dir"), environ, own)
    reports = [report for word in words for report in presets(word, table, environ, found)]
    reports += [of_settings] if of_settings else []
    reports += environment(environ, table)
    if flags.switch_of(args, "--json"):
        print(json.dumps(reports, indent=2))
    else:
        for report in reports:
            for line in lines(report, is_settings=report is of_settings):
                print(visible(line))
    return 1 if any(problem["severity"] == "error" for report in reports for problem in report["problems"]) else 0


class _Found:
    """The models that the cache has, and the folders that are named by words, by the environment or by the file of
    settings."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str], own: Config) -> None:
        self._root = hub.cache_root(environ)
        word = ",".join(words) or environ.get("LLAMA_ARG_MODELS_DIR") or own.get("--models-dir")
        try:
            self._names = set(ModelFolders(PATHS.read(word)).read().models) if word else set[str]()
        except (CatalogError, ValueError) as exc:
            if words:
                raise exc if isinstance(exc, CatalogError) else FlagError(f"--models-dir takes {PATHS.takes}") from exc
            self._names = set()

    def __repr__(self) -> str:
        return f"<_Found in {self._root}, {len(self._names)} in folders>"

    def __call__(self, name: str) -> bool:
        return name in self._names or hub.find(self._root, name) is not None


def presets(word: str, table: FlagTable, environ: Mapping[str, str], found: _Found) -> Iterator[Report]:
    """A report for each file that the word names, as in `--models-preset`. Raises PresetError if one of them cannot be
    read at all, and FlagError for a word that names none."""
    try:
        places = places_of(PATHS.read(word))
    except ValueError:
        raise FlagError(f"check takes {PATHS.takes}, not {word[:SHOWN_CHARACTERS]!r}") from None
    paths = [*paths_of(places)]
    if not paths:
        yield report(word, [], [Problem(0, None, "there is no file in it whose name ends with .ini")])
        return
    try:
        _, checked = check_files(paths, table, environ, found)
    except PresetError as exc:
        if not exc.line:
            raise
        yield report(exc.path or word, [], [Problem(exc.line, exc.key, exc.reason)])
        return
    for each in checked:
        yield report(each.path, list(each.models), each.problems)


def of_config(file: Path) -> tuple[Config, Report]:
    """What is right in the file of settings, and the report. Raises FlagError if the file cannot be read at all."""
    found, problems = config.examine(file, OPTIONS)
    every = sorted([*problems, *config.missing_files(found, OPTIONS)], key=lambda problem: problem.line)
    return found, report(file, [], every)


def environment(environ: Mapping[str, str], table: FlagTable) -> Iterator[Report]:
    """One report if there is anything to report."""
    try:
        found = variables.without_effect(environ, OPTIONS, table)
    except FlagError as exc:
        found = [variables.Finding("", exc.message)]
    if problems := [Problem(0, name or None, message, near) for name, message, near in found]:
        yield report(ENVIRONMENT, [], problems)


def report(file: Path | str, models: list[str], problems: Sequence[Problem]) -> Report:
    listed = [
        {
            "line": problem.line,
            "key": problem.key,
            "message": problem.message,
            "nearest": problem.nearest,
            "severity": "warning" if problem.is_warning else "error",
        }
        for problem in problems
    ]
    return {"file": str(file), "models": models, "problems": listed}


def lines(report: Report, *, is_settings: bool) -> Iterator[str]:
    """A report as text."""
    for problem in report["problems"]:
        where = f"{report['file']}:{problem['line']}" if problem["line"] else report["file"]
        kind = "warning: " if problem["severity"] == "warning" else ""
        yield f"{where}: {kind}{problem['message']}"
    if not report["problems"]:
        models = "" if is_settings else f"; models: {', '.join(report['models']) or 'none'}"
        yield f"{report['file']}: no problems{models}"
