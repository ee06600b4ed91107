"""Preset files: INI text -> frozen `Preset`s, and every mistake at once.

The format is that of llama.cpp's router (`common/preset.cpp`): a section is a model, `[*]` and keys before any header
are defaults for all, keys are llama-server's flags without dashes or their environment variables. Unlike there, `;`
and `#` belong to the value unless white space stands before them (` \\#` keeps even that one), and mistakes come with
their line.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from router import files
from router.engine import allowlist
from router.engine.flags import DROPPED, ELSEWHERE, OWNED, Arg, Flag, FlagTable, boolean, default_table, merge
from router.errors import PresetError
from router.hub.names import MAIN, NAME, without_host
from router.near import nearest

logger = logging.getLogger("router.presets")

LARGEST = 2**20  # bytes; a greater file is something else, a model for instance

# Variables by which the router itself, or the engine's cloud adapters, tell a child what to do.
_RESERVED_ENV = re.compile(r"AIP_.*|LLAMA_SERVER_.*|(CUDA|HIP|ROCR)_VISIBLE_DEVICES")

# All that a preset file from the hub may set: what is on the list of what may be set from outside, which repositories,
# and what tells about a model. No paths, no variables, no tools, no addresses, nothing that takes from other models.
_REPOSITORIES = frozenset({"hf-repo", "hf-file", "spec-draft-hf"})
_TOLD = frozenset(
    {"alias", "tags", "description", "unlisted", "default-params", "load-on-startup", "stop-timeout", "ttl"}
)
FOREIGN = frozenset(name.lstrip("-") for name in allowlist.SAFE) | _REPOSITORIES | _TOLD
_LONGEST_STOP = 60.0  # seconds that a stranger may let others wait until a model of theirs has ended
_FILE = re.compile(r"(?!/)(?!.*(?:^|/)\.)[\w./ +@=,()-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Filters:
    """What is changed in the requests for a model. Values are JSON, by the name of their field. Of a name in `forced`
    the request's own value does not count, of one in `defaults` it does, one in `dropped` the model does not see."""

    forced: tuple[tuple[str, str], ...] = ()
    defaults: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    system: str = ""


@dataclass(frozen=True, slots=True)
class Preset:
    """One section, with `[*]` merged below it. Times are seconds; `ttl` None is the router's default, 0 never ends it.

    `origins` tells for each flag or key where its value was written. Presets that mean the same are equal, wherever
    that is.
    """

    name: str
    args: tuple[Arg, ...] = ()
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    load_on_startup: bool = False
    stop_timeout: float = 10.0
    pin: bool = False
    ttl: float | None = None
    priority: int = 0
    device: tuple[str, ...] = ()
    unlisted: bool = False
    description: str = ""
    env: tuple[tuple[str, str], ...] = ()
    dedup_cache_models: bool = False
    set_params: tuple[tuple[str, str], ...] = ()
    default_params: tuple[tuple[str, str], ...] = ()
    strip_params: tuple[str, ...] = ()
    system_prefix: str = ""
    line: int = field(default=0, compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def filters(self) -> Filters | None:
        """None where requests are passed on as they are."""
        filters = Filters(self.set_params, self.default_params, self.strip_params, self.system_prefix)
        return filters if filters != Filters() else None


@dataclass(frozen=True, slots=True)
class PresetFile:
    """`defaults` is `[*]` and what stands before any header. A `foreign` one says nothing of models that are not its
    own."""

    path: Path | None
    defaults: Preset
    presets: tuple[Preset, ...]
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """`line` counts from 1. `message` is a whole sentence, with the nearest known key if there is one."""

    line: int
    key: str | None
    message: str
    nearest: str | None = None


class _Mistake(Exception):
    def __init__(self, message: str, nearest: str | None = None) -> None:
        super().__init__(message)
        self.message, self.nearest = message, nearest


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    key: str
    value: str


@dataclass(slots=True)
class _Section:
    name: str
    line: int
    lines: list[_Line] = field(default_factory=list)


def read(path: Path, table: FlagTable, *, foreign: bool = False) -> PresetFile:
    """Raises PresetError for a file that cannot be read, and for the first problem in it. A `foreign` one, from the
    hub, may only say what harms nobody."""
    file, problems = examine(path, table, foreign=foreign)
    if problems:
        first, more = problems[0], len(problems) - 1
        hint = f" ({more} more: llama-router check {path} lists them)" if more else ""
        raise PresetError(first.message + hint, path=path, line=first.line, key=first.key)
    return file


def examine(path: Path, table: FlagTable, *, foreign: bool = False) -> tuple[PresetFile, tuple[Problem, ...]]:
    """What `parse` gives for a file. Raises PresetError when it cannot be read at all."""
    try:
        content = files.start(path, LARGEST + 1)
    except OSError as error:
        raise PresetError(f"cannot read the preset file: {error.strerror}", path=path) from error
    if len(content) > LARGEST:
        raise PresetError(f"this is no preset file: it is larger than {LARGEST >> 20} MiB", path=path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PresetError("the file is not UTF-8 text; save it as UTF-8", path=path, line=line) from error
    return parse(text, table, path, foreign=foreign)


def parse(
    text: str, table: FlagTable, path: Path | None = None, *, foreign: bool = False
) -> tuple[PresetFile, tuple[Problem, ...]]:
    """All problems, in the order of their lines; the presets are sound when there is none."""
    problems: list[Problem] = []
    sections = _sections(text, problems)
    reader = _Reader(table, path, problems, foreign)
    defaults = Preset("*")
    for section in sections:
        if section.name == "*":
            defaults = reader.fill(defaults, section)
    below = replace(defaults, origins={key: f"[*] {where}" for key, where in defaults.origins.items()})
    presets = tuple(
        reader.fill(replace(below, name=section.name, line=section.line), section)
        for section in sections
        if section.name != "*"
    )
    problems.sort(key=lambda problem: problem.line)
    return PresetFile(path, defaults, presets, foreign), tuple(problems)


def ini(name: str, args: Iterable[Arg]) -> str:
    """A section that says the same, as llama.cpp shows it in its model list."""
    lines = [f"[{name}]"]
    for arg in args:
        value = " ".join(arg.values) if arg.flag.arity else str(not arg.negated).lower()
        value = re.sub(r"(?<!\S)(?=\\*[;#])", r"\\", value).replace("\n", "\\\n")
        lines.append(f"{arg.flag.name.lstrip('-')} = {value}")
    return "\n".join((*lines, "", ""))


def _sections(text: str, problems: list[Problem]) -> list[_Section]:
    """The lines under their headers; what stands before any header belongs to `*`."""
    sections = [_Section("*", 0)]
    headers: dict[str, int] = {}
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        stripped = line.strip()
        if not stripped or stripped[0] in ";#":
            continue
        key, equals, value = line.partition("=")
        if stripped[0] == "[":
            match = re.fullmatch(r"\[([^]]*)\]\s*([;#].*)?", stripped)
            name = match[1].strip() if match else ""
            earlier = headers.setdefault(name, number)
            if not name:
                problems.append(Problem(number, None, "a section is written [name]"))
            elif earlier != number:
                problems.append(Problem(number, None, f"[{name}] is there already, at line {earlier}: merge them"))
            sections.append(_Section(name, number))
        elif equals:
            sections[-1].lines.append(_Line(number, key.strip(), _value(value)))
        else:
            # Not what stands there: it may be a token.
            key = re.match(r"[a-z][a-z-]{1,40}(?=\s)", stripped)
            what = f"an = is missing behind {key[0]}" if key else "this is neither"
            problems.append(Problem(number, None, f"expected key = value or [section]; {what}"))
    return sections


def _value(text: str) -> str:
    """What follows the equals sign, without the comment; a backslash keeps what would begin one."""
    without = re.split(r"\s[;#]", text, maxsplit=1)[0]
    return re.sub(r"(?<=\s)\\(?=\\*[;#])", "", without).strip()


class _Reader:
    """Turns the lines of a section into what they mean; mistakes go to `problems`."""

    def __init__(self, table: FlagTable, path: Path | None, problems: list[Problem], foreign: bool) -> None:
        self.table, self.path, self.problems, self.foreign = table, path, problems, foreign

    def fill(self, base: Preset, section: _Section) -> Preset:
        meant: list[tuple[str, Any]] = []  # arguments, variables, and values that _OWN gave the type of their field
        lines: dict[str, int] = {}
        for line in section.lines:
            try:
                if found := self._meaning(line, section.name):
                    _once(*found, line, lines)
                    meant.append(found)
            except _Mistake as mistake:
                self.problems.append(Problem(line.number, line.key, mistake.message, mistake.nearest))
        args = [value for _, value in meant if isinstance(value, Arg)]
        env = dict(base.env) | {key.removeprefix("env."): value for key, value in meant if key.startswith("env.")}
        own = {_OWN[key].field: value for key, value in meant if key in _OWN}
        origins = {**base.origins, **{key: f"{self.path or 'preset'}:{number}" for key, number in lines.items()}}
        return replace(base, args=merge(base.args, args), env=tuple(env.items()), origins=origins, **own)

    def _meaning(self, line: _Line, section: str) -> tuple[str, Any] | None:
        """The key under its one name, and its value; None for what is tolerated and has no effect."""
        if line.key == "version":  # of the format; reserved upstream
            return None
        found = self.table.by_key(line.key)
        if self.foreign:
            _check_foreign(line, found[0] if found else None, section)
        if line.key.startswith("env."):
            return line.key, self._variable(line)
        known = found or default_table().by_key(line.key)
        name = found[0].name.lstrip("-") if found else line.key
        if name == "alias" and section == "*":
            raise _Mistake("an alias names one model: move it into that model's section")
        if name in _OWN:
            return name, _OWN[name].read(line)
        if known and known[0].name in DROPPED:
            logger.warning("%s:%d: %s has no effect: the router sets it", self.path or "preset", line.number, line.key)
            return None
        if known and known[0].name in OWNED:
            raise _Mistake(f"{line.key} belongs to the router, not to a model: delete this line")
        if not found:
            raise self._unknown(line.key)
        return found[0].name, _argument(*found, line)

    def _variable(self, line: _Line) -> str:
        name = line.key.removeprefix("env.")
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise _Mistake(f"{line.key} names no environment variable: write env.NAME = value")
        found = self.table.by_key(name)
        if (found and found[0].name in OWNED) or _RESERVED_ENV.fullmatch(name):
            raise _Mistake(f"{name} is set by the router: delete this line (GPUs are chosen by device = NAME,...)")
        return line.value

    def _unknown(self, key: str) -> _Mistake:
        if default_table().by_key(key):
            return _Mistake(f"unknown key {key!r}{ELSEWHERE}")
        bare = key.lstrip("-")
        candidates = [*_OWN, self.table.nearest(bare) or ""]
        near = next(iter(nearest(bare, candidates)), None)
        return _Mistake(f"unknown key {key[:80]!r}" + (f"; did you mean {near}?" if near else ""), near)


def _check_foreign(line: _Line, flag: Flag | None, section: str) -> None:
    """What a stranger may not say. `flag` is the one that the key names, if it names one."""
    name, value = flag.name.lstrip("-") if flag else line.key, line.value
    if name not in _REPOSITORIES | _TOLD and not (flag and allowlist.is_safe(flag)):
        raise _Mistake(f"{line.key} is not taken from the hub: copy the file, and name the copy by --models-preset")
    wrong = None
    if section == "*" and name in _REPOSITORIES | {"load-on-startup"}:
        wrong = "is for one model: move it into that model's section"
    elif name in ("hf-repo", "spec-draft-hf"):
        wrong = None if NAME.fullmatch(value) else "takes user/repo or user/repo:quant"
        if name == "hf-repo" and not wrong and "/" in section and _repository(section) != _repository(value):
            wrong = f"takes the repository that {section} is the name of, or the section another name, without a slash"
    elif name == "hf-file":
        wrong = None if _FILE.fullmatch(value) else "takes the name of a file in the repository"
    elif name == "alias":
        wrong = "takes no names of repositories, which are other models'" if "/" in value else None
    elif name == "stop-timeout":
        wrong = None if _seconds(line) <= _LONGEST_STOP else f"takes at most {_LONGEST_STOP:g} seconds"
    elif flag and name not in _TOLD:
        wrong = allowlist.fault(Arg(flag, (value,) if flag.arity else ()))
    if wrong:
        raise _Mistake(f"{line.key} {wrong}, as it comes from the hub")


def _repository(name: str) -> tuple[str, str] | None:
    """The repository and the revision that are meant by a name of the hub's; None for what is none."""
    found = NAME.fullmatch(without_host(name))
    return (found["repo"], found["revision"] or MAIN) if found else None


def _once(key: str, value: object, line: _Line, lines: dict[str, int]) -> None:
    earlier = lines.setdefault(key, line.number)
    if earlier != line.number and not (isinstance(value, Arg) and value.flag.repeatable):
        raise _Mistake(f"{line.key} is set already, at line {earlier}: keep one of them")


def _argument(flag: Flag, negative: bool, line: _Line) -> Arg:
    if not flag.arity:
        return Arg(flag, negated=_switch(line) is negative)
    values = (line.value,) if flag.arity == 1 else tuple(line.value.split())
    if not line.value or len(values) != flag.arity:
        count = "a value" if flag.arity == 1 else f"{flag.arity} values"
        raise _Mistake(f"{line.key} needs {count} (a # that belongs to it is written \\#)")
    return Arg(flag, values)


def _switch(line: _Line) -> bool:
    on = boolean(line.value)
    if on is None:
        raise _Mistake(f"{line.key} is a switch: write on or off, not {line.value[:80]!r}")
    return on


def _seconds(line: _Line) -> float:
    try:
        number = float(line.value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise _Mistake(f"{line.key} is a number of seconds, 0 or more, not {line.value[:80]!r}")
    return number


def _integer(line: _Line) -> int:
    try:
        return int(line.value)
    except ValueError:
        raise _Mistake(f"{line.key} is a whole number, not {line.value[:80]!r}") from None


def _words(line: _Line) -> tuple[str, ...]:
    return tuple(word for part in line.value.split(",") if (word := part.strip()))


def _text(line: _Line) -> str:
    return line.value


def _prose(line: _Line) -> str:
    return line.value.replace("\\n", "\n")


def _params(line: _Line) -> tuple[tuple[str, str], ...]:
    """Fields of a request."""
    try:
        value = json.loads(line.value)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise _Mistake(f"{line.key} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise _Mistake(f'{line.key} is a JSON object, as {{"temperature": 0.7}}, not {line.value[:80]!r}')
    _changeable(line, value)
    return tuple((name, json.dumps(value[name])) for name in value)


def _names(line: _Line) -> tuple[str, ...]:
    """Names of such fields."""
    names = _words(line)
    _changeable(line, names)
    return names


def _changeable(line: _Line, names: Iterable[str]) -> None:
    # The router goes by them, and the client reads the answer by the second.
    for name in {"model", "stream"}.intersection(names):
        raise _Mistake(f"{line.key} cannot change {name!r}: that is the client's to say")


@dataclass(frozen=True, slots=True)
class _Key:
    field: str
    read: Callable[[_Line], object]


# Keys that are no arguments of the child. `alias`, `tags` and `device` are flags too, any spelling of which leads here:
# the child gets an alias and its GPUs from the router.
_OWN = {
    "alias": _Key("aliases", _words),
    "tags": _Key("tags", _words),
    "load-on-startup": _Key("load_on_startup", _switch),
    "stop-timeout": _Key("stop_timeout", _seconds),
    "dedup-cache-models": _Key("dedup_cache_models", _switch),
    "pin": _Key("pin", _switch),
    "ttl": _Key("ttl", _seconds),
    "priority": _Key("priority", _integer),
    "device": _Key("device", _words),
    "unlisted": _Key("unlisted", _switch),
    "description": _Key("description", _text),
    "set-params": _Key("set_params", _params),
    "default-params": _Key("default_params", _params),
    "strip-params": _Key("strip_params", _names),
    "system-prefix": _Key("system_prefix", _prose),
}
