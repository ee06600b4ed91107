"""Every mistake in preset files: in their text, their names, their values, and the files that they name.

`presets` finds the mistakes of the text. The rest shows only when the files are read as a whole: names that mean two
models, sections without a model, files that are missing, and values that the engine would refuse. What keeps nothing
from working is a warning. Called by `llama-router check`, which reports instead of starting anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from router import files
from router.engine import engines, renamed, values
from router.engine.flags import Arg, FlagTable
from router.errors import EngineError
from router.hub import cache as hub
from router.models import presets
from router.models.build import missing_files
from router.models.catalog import alias_clashes
from router.models.damage import damaged
from router.models.ini import Problem
from router.models.links import faults
from router.models.presets import Preset, PresetFile
from router.models.spec import FILE_FLAGS, MODEL_FLAGS
from router.near import nearest

# Whether a source that is no preset file has a model of this name: the cache, or a folder of models.
IsFound = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Checked:
    """One file with the models that it describes, and all of its problems in the order of their lines."""

    path: Path
    models: tuple[str, ...]
    problems: tuple[Problem, ...]


def check_files(
    paths: Sequence[Path], table: FlagTable, environ: Mapping[str, str], is_found: IsFound
) -> tuple[PresetFile, list[Checked]]:
    """Several files as the router would read them: as one. Raises PresetError if one cannot be read at all."""
    parts = [(path, presets.read_text(path)) for path in paths]
    file, found = presets.parse_all(parts, table, environ=environ, warns=True)
    by_path: dict[Path, list[Problem]] = {path: list(mine) for path, mine in zip(paths, found, strict=True)}
    whole = _Whole(file, table, is_found)
    for path, problem in whole.problems():
        by_path[path].append(problem)
    checked = []
    for path, problems in by_path.items():
        unique = dict.fromkeys(problems)  # each section repeats the mistakes of [*]
        ordered = tuple(sorted(_one_of_a_kind(unique), key=lambda problem: problem.line))
        checked.append(Checked(path, tuple(each.name for each in file.presets if each.path == path), ordered))
    return file, checked


def _one_of_a_kind(problems: Mapping[Problem, None]) -> Iterator[Problem]:
    """The problems without those that follow from another one: quotes make a path wrong, too."""
    quoted = {problem.line for problem in problems if "has quotes around" in problem.message and not problem.is_warning}
    for problem in problems:
        if problem.line not in quoted or "has quotes around" in problem.message:
            yield problem


class _Whole:
    def __init__(self, file: PresetFile, table: FlagTable, is_found: IsFound) -> None:
        self.file, self.table, self.is_found = file, table, is_found

    def __repr__(self) -> str:
        return f"<_Whole of {len(self.file.presets)} presets>"

    def problems(self) -> Iterator[tuple[Path, Problem]]:
        for preset, sentence in alias_clashes(self.file.presets):
            yield self._at(preset, "alias", sentence)
        yield from self._alike_names()
        for preset in self.file.presets:
            yield from self._model(preset)
        for preset in (self.file.defaults, *self.file.presets):
            table = self._table_of(preset)
            for arg in preset.args:
                for message, is_warning in self._argument(arg, table):
                    yield self._at(preset, arg.flag.name, message, is_warning)
            yield from self._variables(preset)
            yield from self._quotes(preset)

    def _at(
        self, preset: Preset, key: str, sentence: str, is_warning: bool = False, nearest: str | None = None
    ) -> tuple[Path, Problem]:
        """A problem with the place where the key was written. It may stand in `[*]`, in another file."""
        path, _, line = preset.origins[key].removeprefix("[*] ").rpartition(":")
        return Path(path), Problem(int(line), key.lstrip("-"), sentence, nearest, is_warning)

    def _alike_names(self) -> Iterator[tuple[Path, Problem]]:
        """Names that differ by case alone: a request must then write the case right."""
        seen: dict[str, Preset] = {}
        for preset in self.file.presets:
            other = seen.setdefault(preset.name.casefold(), preset)
            if other is not preset and preset.path:
                message = f"[{preset.name}] and [{other.name}] differ by case alone: requests must write it right"
                yield preset.path, Problem(preset.line, None, message, is_warning=True)

    def _model(self, preset: Preset) -> Iterator[tuple[Path, Problem]]:
        assert preset.path
        if not any(arg.flag.name in MODEL_FLAGS for arg in preset.args) and not self.is_found(preset.name):
            message = f"[{preset.name}] names no model"
            if hub.repo_and_quant(preset.name):
                message += f", and the cache has none of this name: add hf-repo = {preset.name}"
            else:
                message += ": add model = FILE or hf-repo = user/repo (or, if a folder has it, check with --models-dir)"
            yield preset.path, Problem(preset.line, None, message)
        missing = [*missing_files(preset.args), *faults(preset.args)]
        for flag, sentence in missing or damaged(preset.args):
            yield self._at(preset, flag, sentence)
        if preset.engine_problem:
            yield self._at(preset, "engine", preset.engine_problem)

    def _table_of(self, preset: Preset) -> FlagTable:
        """The flags of the engine that runs the model."""
        with contextlib.suppress(EngineError):
            return engines.table_of(preset.engine) if preset.engine else self.table
        return self.table

    def _argument(self, arg: Arg, table: FlagTable) -> Iterator[tuple[str, bool]]:
        """What is wrong with an argument, and whether that is only a warning."""
        key = arg.flag.name.lstrip("-")
        now = renamed.now(key)
        if now and now.key and now.key != key and table.by_key(now.key):
            yield f"{key} has been removed from llama-server: {now}", False
            return
        if wrong := values.quotes_fault(arg):
            yield f"{key} {wrong}", False
            return
        if wrong := values.fault(arg, table.choices):
            yield f"{key} {wrong}", False
        if key == "defrag-thold":
            yield "defrag-thold does nothing any more: delete it", True
        yield from self._paths(key, arg)

    def _paths(self, key: str, arg: Arg) -> Iterator[tuple[str, bool]]:
        """Files that are read must be there; folders, and files that are made, may come later."""
        name = values.known_name(arg.flag)
        if name in FILE_FLAGS:
            return  # `missing_files` knows about their shards
        for word in values.paths_of(arg):
            path = files.expanded(word)
            if name in values.READ_FILES and not os.path.isfile(path):
                what = "is a folder, not a file" if os.path.isdir(path) else "is missing"
                yield f"{key}: the file {word[:200]} {what} (in {os.path.abspath(path.parent)})", False
            elif name in values.READ_FOLDERS and not os.path.isdir(path):
                yield f"{key}: the folder {word[:200]} is missing", True
            elif name in values.WRITTEN_FILES and not os.path.isdir(path.parent):
                yield f"{key}: there is no folder {str(path.parent)[:200]} for the file", True

    def _quotes(self, preset: Preset) -> Iterator[tuple[Path, Problem]]:
        """Quotes in the router's own keys and in variables, where they are a part of the value."""
        words = [("alias", preset.aliases), ("tags", preset.tags), ("device", preset.device)]
        for key, names in (*words, *((f"env.{name}", (value,)) for name, value in preset.env)):
            if any(len(name) > 1 and name[0] in "\"'" and name[-1] in "\"'" for name in names):
                message = f"{key} has quotes around its value, which would be part of it: delete them"
                yield self._at(preset, key, message, is_warning=key.startswith("env."))

    def _variables(self, preset: Preset) -> Iterator[tuple[Path, Problem]]:
        """Variables of llama-server: a misspelt one does nothing, and the memory plan sees none of them."""
        for name, _ in preset.env:
            if not name.startswith("LLAMA_ARG_"):
                continue
            if known := self.table.by_key(name):
                key = known[0].name.lstrip("-")
                message = f"env.{name}: write {key} = VALUE, so that the router knows of it when it plans memory"
                yield self._at(preset, f"env.{name}", message, is_warning=True)
            else:
                names = [flag.env for flag in self.table.flags if flag.env]
                near = next(iter(nearest(name, names)), None)
                hint = f"; did you mean {near}?" if near else ""
                yield self._at(
                    preset, f"env.{name}", f"env.{name}: llama-server has no such variable{hint}", True, near
                )
