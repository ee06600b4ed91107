"""Every mistake in one preset file: in its text, its names, and the files that it names.

`presets` finds the mistakes of the text. Two more kinds show only when the file is read as a whole: names that mean two
models, and files that are missing or cannot be downloaded. Called by `llama-router check`, which reports instead of
starting anything.
"""

from __future__ import annotations

from pathlib import Path

from router.engine.flags import FlagTable
from router.models import presets
from router.models.build import missing_files
from router.models.catalog import alias_clashes
from router.models.ini import Problem
from router.models.links import faults
from router.models.presets import Preset, PresetFile


def check_file(path: Path, table: FlagTable) -> tuple[PresetFile, tuple[Problem, ...]]:
    """The presets of a file and all its mistakes, in the order of their lines. Raises PresetError if it cannot be read
    at all."""
    file, problems = presets.examine(path, table)
    clashes = [_problem(preset, "alias", sentence) for preset, sentence in alias_clashes(file.presets)]
    missing = [_problem(preset, *found) for preset in file.presets for found in missing_files(preset.args)]
    missing += [_problem(preset, "engine", preset.engine_problem) for preset in file.presets if preset.engine_problem]
    missing += [_problem(preset, *found) for preset in file.presets for found in faults(preset.args)]
    unique = dict.fromkeys((*problems, *clashes, *missing))  # each section repeats the mistakes of [*]
    return file, tuple(sorted(unique, key=lambda problem: problem.line))


def _problem(preset: Preset, key: str, sentence: str) -> Problem:
    line = int(preset.origins[key].rpartition(":")[2])
    return Problem(line, key.lstrip("-"), sentence)
