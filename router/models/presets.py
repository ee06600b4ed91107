"""Preset files: INI text becomes frozen `Preset`s, and every mistake in it is reported at once.

A section is a model. `[*]`, and keys before any header, are defaults for all models. A key is a flag of llama-server
without its dashes, the environment variable of a flag, `env.NAME`, or one of the router's own (`own_keys`). Values may
have variables (`expansion`). Format: llama.cpp's common/preset.cpp; `ini` has the differences.

Several files are read as one text: a key in a later file wins, in `[*]` and in sections of the same name. Called by
`ini_files`, by `check`, and by the import of other programs' files.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from router import files
from router.engine import engines, renamed
from router.engine.flags import (
    DROPPED,
    DROPPED_KEYS,
    OTHER_ENGINE_HINT,
    OWNED,
    Arg,
    Flag,
    FlagTable,
    default_table,
    merge,
)
from router.errors import EngineError, PresetError
from router.models.expansion import expanded
from router.models.foreign import check_foreign
from router.models.ini import DEFAULTS, Line, Mistake, Problem, Section, read_sections
from router.models.own_keys import OWN_KEYS, read_switch
from router.models.spec import Filters
from router.near import nearest

logger = logging.getLogger("router.presets")

MAX_FILE_BYTES = 2**20  # a larger file is something else, for instance a model

# Variables that a preset must not set: with them the router itself, or the engine's cloud adapters, steer a child.
RESERVED_VARIABLES = re.compile(r"AIP_.*|LLAMA_SERVER_.*|(CUDA|HIP|ROCR)_VISIBLE_DEVICES")


@dataclass(frozen=True, slots=True)
class Preset:
    """One section, with the defaults of `[*]` merged below it.

    `stop_timeout`, `ttl` and `min_loaded` are seconds. Where one is None the router's default holds; with a `ttl` of 0
    the model is never ended.
    `engine` is the llama-server that runs it, as `--engine` names one; empty for the router's own. `engine_problem`
    says why that cannot be used.
    `origins` says for each flag or key where its value was written.
    Two presets that mean the same are equal, wherever they were written.
    """

    name: str
    args: tuple[Arg, ...] = ()
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    load_on_startup: bool = False
    stop_timeout: float = 10.0
    pin: bool = False
    ttl: float | None = None
    min_loaded: float | None = None
    priority: int = 0
    device: tuple[str, ...] = ()
    engine: str = ""
    engine_problem: str = ""
    unlisted: bool = False
    description: str = ""
    env: tuple[tuple[str, str], ...] = ()
    dedup_cache_models: bool = False
    set_params: tuple[tuple[str, str], ...] = ()
    default_params: tuple[tuple[str, str], ...] = ()
    set_params_by_name: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    strip_params: tuple[str, ...] = ()
    system_prefix: str = ""
    line: int = field(default=0, compare=False)
    path: Path | None = field(default=None, compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        # No arguments and no variables: some of them are secrets.
        return f"<Preset [{self.name}] at line {self.line}: {len(self.args)} flags, {len(self.env)} variables>"

    @property
    def filters(self) -> Filters | None:
        """None if requests are passed on as they are."""
        filters = Filters(self.set_params, self.default_params, self.strip_params, self.system_prefix)
        return filters if filters != Filters() else None


@dataclass(frozen=True, slots=True)
class PresetFile:
    """What one file says, or several as one; `path` is the first.

    `defaults` are `[*]` and what stands before any header. The defaults of a `foreign` file, from the hub, hold only
    for its own models.
    `is_empty_on_purpose`: it says `models = none`.
    """

    path: Path | None
    defaults: Preset
    presets: tuple[Preset, ...]
    foreign: bool = False
    is_empty_on_purpose: bool = False


NO_PRESETS = PresetFile(None, Preset(DEFAULTS), ())


def read(
    path: Path, table: FlagTable, *, foreign: bool = False, environ: Mapping[str, str] | None = None
) -> PresetFile:
    """The presets of a sound file. In a `foreign` one, from the hub, only harmless keys are allowed.

    Raises PresetError if the file cannot be read, and for the first mistake in it.
    """
    file, problems = examine(path, table, foreign=foreign, environ=environ)
    raise_first(problems, path)
    return file


def raise_first(problems: Sequence[Problem], path: Path) -> None:
    """Raises PresetError if there is a problem."""
    if problems:
        first, more = problems[0], len(problems) - 1
        hint = f" ({more} more: llama-router check {path} lists them)" if more else ""
        raise PresetError(first.message + hint, path=path, line=first.line, key=first.key)


def examine(
    path: Path, table: FlagTable, *, foreign: bool = False, environ: Mapping[str, str] | None = None
) -> tuple[PresetFile, tuple[Problem, ...]]:
    """What `parse` returns for the text of a file. Raises PresetError if the file cannot be read at all."""
    return parse(read_text(path), table, path, foreign=foreign, environ=environ)


def read_text(path: Path) -> str:
    """The text of a preset file. Raises PresetError if it is none."""
    try:
        content = files.read_secret(path, MAX_FILE_BYTES)
    except files.TooLarge as error:
        raise PresetError(f"this is no preset file: it is larger than {MAX_FILE_BYTES >> 20} MiB", path=path) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PresetError(f"cannot read the preset file: {reason}", path=path) from error
    try:
        return files.text_of(content)
    except files.NotText as error:
        raise PresetError(error.message, path=path, line=error.line) from error


def parse(
    text: str,
    table: FlagTable,
    path: Path | None = None,
    *,
    foreign: bool = False,
    environ: Mapping[str, str] | None = None,
) -> tuple[PresetFile, tuple[Problem, ...]]:
    """The presets, and all mistakes in the order of their lines. The presets are sound if there is no mistake.

    `environ` has the variables that values refer to: those of this process if it is left out."""
    file, (problems,) = parse_all([(path, text)], table, foreign=foreign, environ=environ)
    return file, problems


def parse_all(
    parts: Sequence[tuple[Path | None, str]],
    table: FlagTable,
    *,
    foreign: bool = False,
    environ: Mapping[str, str] | None = None,
    warns: bool = False,
) -> tuple[PresetFile, tuple[tuple[Problem, ...], ...]]:
    """The presets of several files, each with its text, as one; and the mistakes in each of them.

    Warnings are logged; if `warns` is set they are among the problems instead."""
    environ = os.environ if environ is None else environ
    defaults, found = Preset(DEFAULTS), []
    for path, text in parts:
        sections, problems = read_sections(text)
        reader = _SectionReader(table, path, problems, foreign, environ, warns)
        found.append((reader, sections))
        for section in sections:
            if section.name == DEFAULTS:
                defaults = reader.fill(defaults, section)
    below = replace(defaults, origins={key: f"[*] {where}" for key, where in defaults.origins.items()})
    presets: dict[str, Preset] = {}
    for reader, sections in found:
        mine: dict[str, Preset] = {}
        for section in sections:
            if section.name == DEFAULTS:
                continue
            base = presets.get(section.name, replace(below, name=section.name))
            if section.name in mine:  # which is a mistake; what is wrong with the first one is told as well
                base = mine[section.name]
            elif base.line:
                reader.warn(section.line, None, f"[{section.name}] is laid over that of {base.path}, key by key")
            mine[section.name] = reader.fill(replace(base, line=section.line, path=reader.path), section)
        presets |= mine
        reader.check_names(mine.values())
    ordered = tuple(tuple(sorted(reader.problems, key=lambda problem: problem.line)) for reader, _ in found)
    is_empty = any(reader.is_empty_on_purpose for reader, _ in found)
    first = parts[0][0] if parts else None
    return PresetFile(first, defaults, tuple(presets.values()), foreign, is_empty), ordered


class _SectionReader:
    """Turns the lines of sections of one file into presets. Mistakes are added to `problems`."""

    def __init__(
        self,
        table: FlagTable,
        path: Path | None,
        problems: list[Problem],
        foreign: bool,
        environ: Mapping[str, str],
        warns: bool,
    ) -> None:
        self._own_table = self.table = table
        self.path, self.problems, self.foreign = path, problems, foreign
        self.environ, self.warns = environ, warns
        self.is_empty_on_purpose = False

    def __repr__(self) -> str:
        return f"<_SectionReader of {self.path or 'text'}: {len(self.problems)} problems>"

    def warn(self, line: int, key: str | None, message: str) -> None:
        if self.warns:
            self.problems.append(Problem(line, key, message, is_warning=True))
        else:
            logger.warning("%s:%d: %s", self.path or "preset", line, message)

    def fill(self, base: Preset, section: Section) -> Preset:
        """`base` with the lines of a section on top."""
        # Pairs of a key's one name and its value: an Arg, a variable's text, or what OWN_KEYS made of the line.
        values: list[tuple[str, Any]] = []
        lines: dict[str, int] = {}
        self.table, problem = self._engine_of(base, section)
        for line in section.lines:
            if problem and not self._is_known(line):
                continue  # maybe a flag of the engine that cannot be asked
            try:
                if found := self._interpret(line, section.name):
                    _check_once(*found, line, lines)
                    values.append(found)
            except Mistake as mistake:
                self.problems.append(Problem(line.number, line.key, mistake.message, mistake.nearest))
        args = [value for _, value in values if isinstance(value, Arg)]
        env = dict(base.env) | {key.removeprefix("env."): value for key, value in values if key.startswith("env.")}
        own = {OWN_KEYS[key].field: value for key, value in values if key in OWN_KEYS}
        origins = {**base.origins, **{key: f"{self.path or 'preset'}:{number}" for key, number in lines.items()}}
        own["engine_problem"] = problem
        return replace(base, args=merge(base.args, args), env=tuple(env.items()), origins=origins, **own)

    def _engine_of(self, base: Preset, section: Section) -> tuple[FlagTable, str]:
        """The flags of the section's engine, and why it cannot be used; then the flags are those of all engines."""
        given = [line.value for line in section.lines if line.key == "engine"]
        if self.foreign or not (given or base.engine):
            return self._own_table, ""
        try:
            choice = expanded("engine", given[-1], None, self.environ) if given else base.engine
            return engines.table_of(choice) if choice else self._own_table, ""
        except EngineError as error:
            known = self._own_table
            more = [flag for flag in default_table().flags if not known.find(flag.name)]
            return FlagTable([*known.flags, *more], known.choices), error.message
        except Mistake:  # it is told with its line
            return self._own_table, ""

    def _is_known(self, line: Line) -> bool:
        is_own = line.key in OWN_KEYS or line.key in DROPPED_KEYS or line.key.startswith("env.")
        return is_own or line.key == "version" or self.table.by_key(line.key) is not None

    def _interpret(self, line: Line, section: str) -> tuple[str, Any] | None:
        """The key by its one name, and its value. None if the line is tolerated but has no effect."""
        if line.key == "version":  # of the format; reserved by llama.cpp
            return None
        if line.key == "models" and section == DEFAULTS and not self.foreign:
            if line.value != "none":
                raise Mistake("models = none says that there are no models; a model is a section [NAME]")
            self.is_empty_on_purpose = True
            return None
        found = self.table.by_key(line.key)
        if self.foreign:
            check_foreign(line, found[0] if found else None, section)
        known = found or default_table().by_key(line.key)
        name = found[0].name.lstrip("-") if found else line.key
        if not self.foreign:
            line = replace(line, value=expanded(name, line.value, known[0] if known else None, self.environ))
        if line.key.startswith("env."):
            return line.key, self._variable(line)
        if name == "alias" and section == DEFAULTS:
            raise Mistake("an alias names one model: move it into that model's section")
        if name in OWN_KEYS:
            return name, OWN_KEYS[name].read(line)
        if (known and known[0].name in DROPPED) or line.key in DROPPED_KEYS:
            self.warn(line.number, line.key, f"{line.key} has no effect: the router sets it")
            return None
        if known and known[0].name in OWNED:
            raise Mistake(f"{line.key} belongs to the router, not to a model: delete this line")
        if not found:
            raise self._unknown(line.key)
        return found[0].name, _argument(*found, line)

    def _variable(self, line: Line) -> str:
        name = line.key.removeprefix("env.")
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise Mistake(f"{line.key} names no environment variable: write env.NAME = value")
        found = self.table.by_key(name)
        if (found and found[0].name in OWNED) or RESERVED_VARIABLES.fullmatch(name):
            raise Mistake(f"{name} is set by the router: delete this line (GPUs are chosen by device = NAME,...)")
        return line.value

    def check_names(self, presets: Iterable[Preset]) -> None:
        """Parameters by name belong to the model's own names."""
        for preset in presets:
            for name, _ in preset.set_params_by_name:
                if name.casefold() not in {known.casefold() for known in (preset.name, *preset.aliases)}:
                    line = int(preset.origins["set-params-by-name"].rpartition(":")[2])
                    message = f"set-params-by-name: {name[:80]!r} is no name of [{preset.name}]: add it to its alias"
                    self.problems.append(Problem(line, "set-params-by-name", message))

    def _unknown(self, key: str) -> Mistake:
        bare = renamed.bare(key)
        spelled = next((word for word in (bare, key.upper()) if word in OWN_KEYS or self.table.by_key(word)), None)
        if spelled and spelled != key:
            return Mistake(f"unknown key {key[:80]!r}; did you mean {spelled}?", spelled)
        if default_table().by_key(key):
            return Mistake(f"unknown key {key!r}{OTHER_ENGINE_HINT}")
        if now := renamed.now(key):
            return Mistake(f"unknown key {key!r}: {now}", now.key)
        candidates = [*OWN_KEYS, self.table.nearest(bare) or ""]
        near = next(iter(nearest(bare, candidates)), None)
        return Mistake(f"unknown key {key[:80]!r}" + (f"; did you mean {near}?" if near else ""), near)


def _check_once(key: str, value: object, line: Line, lines: dict[str, int]) -> None:
    """Raises Mistake if an earlier line has set the same key. `lines` remembers the line of each key."""
    earlier = lines.setdefault(key, line.number)
    if earlier != line.number and not (isinstance(value, Arg) and value.flag.repeatable):
        raise Mistake(f"{line.key} is set already, at line {earlier}: keep one of them")


def _argument(flag: Flag, negative: bool, line: Line) -> Arg:
    if not flag.arity:
        return Arg(flag, negated=read_switch(line) is negative)
    values = (line.value,) if flag.arity == 1 else tuple(line.value.split())
    if not line.value or len(values) != flag.arity:
        count = "a value" if flag.arity == 1 else f"{flag.arity} values"
        raise Mistake(f"{line.key} needs {count} (a # that belongs to it is written \\#)")
    return Arg(flag, values)
