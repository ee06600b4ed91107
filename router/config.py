"""The file of `--config`: the router's own settings as INI, each line a flag without its dashes.

The format is that of preset files (`models.ini`), without sections: those are for models. A line is worth as much as
the flag, and ranks below the command line and the environment. `settings` reads the file, once, at the start; `check`
reports all mistakes in one.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from router import files
from router.engine.flags import Flag, FlagTable, boolean, default_table
from router.errors import FlagError
from router.models.ini import DEFAULTS, Line, Mistake, Problem, read_sections
from router.near import nearest
from router.options import KEYS, PATH, SHOWN_CHARACTERS, STORE, SWITCH, Option

log = logging.getLogger("router.settings")

MAX_FILE_BYTES = 1 << 20
OWN_FLAG = "--config"
# What `check` looks for on the disk. Other paths are made by the router, or are looked up in PATH.
_MODEL_PLACES = ("--models-dir", "--ollama-models", "--lmstudio-models", "--models-preset")
_MUST_EXIST = {*_MODEL_PLACES, "--api-key-file", "--admin-key-file", "--ssl-key-file", "--ssl-cert-file"}
_OTHERS_MAY_READ = stat.S_IRGRP | stat.S_IROTH


@dataclass(frozen=True, slots=True)
class Word:
    """What one option is set to, as on a command line, and where that stands (`FILE:LINE: KEY`)."""

    text: str
    source: str
    line: int


@dataclass(frozen=True, slots=True)
class Config:
    """The words of a file, by the names of options; none without a file."""

    path: Path | None = None
    words: Mapping[str, Word] = field(default_factory=dict, repr=False)  # some are keys

    def get(self, name: str) -> str | None:
        word = self.words.get(name)
        return word.text if word else None


def read(path: Path, options: Sequence[Option]) -> Config:
    """The file of a router that starts. Raises FlagError if it cannot be read, and for the first mistake in it."""
    config, problems = examine(path, options)
    if problems:
        first, more = problems[0], len(problems) - 1
        hint = f" ({more} more: llama-router check --config {path} lists them)" if more else ""
        raise FlagError(f"{path}:{first.line}: {first.message}{hint}")
    _warn_if_open(config, options)
    return config


def examine(path: Path, options: Sequence[Option]) -> tuple[Config, tuple[Problem, ...]]:
    """What is right in the file, and all mistakes in the order of their lines.

    Raises FlagError if the file cannot be read at all."""
    try:
        content = files.read_secret(path, MAX_FILE_BYTES)  # it may hold keys, and come from `<(program)` as they may
    except (OSError, ValueError) as error:
        raise FlagError(f"cannot read {OWN_FLAG} {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        text = files.text_of(content)
    except files.NotText as error:
        return Config(path), (Problem(error.line, None, error.message),)
    return parse(text, options, path)


def parse(text: str, options: Sequence[Option], path: Path) -> tuple[Config, tuple[Problem, ...]]:
    """As `examine`, for the text of a file."""
    sections, problems = read_sections(text)
    problems = list(problems)
    table, by_name = FlagTable(option.flag for option in options), {option.name: option for option in options}
    words: dict[str, Word] = {}
    for section in sections:
        if section.line:
            named = section.name if section.name != DEFAULTS else "*"
            message = f"[{named}] is for models, which belong into a file of --models-preset; here are settings alone"
            problems.append(Problem(section.line, None, message))
            continue
        for line in section.lines:
            try:
                option, word = _interpret(line, table, by_name)
                earlier = words.get(option.name)
                if earlier and not option.takes_several:
                    raise Mistake(f"{line.key} is set already, at line {earlier.line}: keep one of them")
                both = f"{earlier.text},{word}" if earlier else word
                words[option.name] = Word(both, f"{path}:{line.number}: {line.key}", line.number)
            except Mistake as mistake:
                problems.append(Problem(line.number, line.key, mistake.message, mistake.nearest))
    return Config(path, words), tuple(sorted(problems, key=lambda problem: problem.line))


def missing_files(config: Config, options: Sequence[Option]) -> Iterator[Problem]:
    """Paths in the file that lead nowhere."""
    for option in options:
        word = config.words.get(option.name)
        if word and option.name in _MUST_EXIST and not _exists(option, word.text):
            key = option.name.lstrip("-")
            yield Problem(word.line, key, f"{key}: {word.text[:SHOWN_CHARACTERS]} is missing")


def _exists(option: Option, word: str) -> bool:
    if option.kind is STORE and option.kind.read(word) in (None, option.kind.implied):
        return True
    words = [word] if option.kind is PATH or files.expanded(word).exists() else word.split(",")
    return all(files.expanded(part.strip()).exists() for part in words)


def _interpret(line: Line, table: FlagTable, options: Mapping[str, Option]) -> tuple[Option, str]:
    """The option that a line sets, and its word as a flag would have it. Raises Mistake."""
    found = table.by_key(line.key) or table.by_key(line.key.lstrip("-").replace("_", "-"))
    if named := [option for option in options.values() if line.key in option.other_variables]:
        found = named[0].flag, False
    if found is None:
        raise _unknown(line.key, table)
    flag, is_negative = found
    option = options[flag.name]
    if flag.name == OWN_FLAG:
        raise Mistake("a file of settings cannot name another one: delete this line")
    word = _unquoted(line.value, option)
    if option.kind is SWITCH:
        if (on := boolean(word)) is None:
            raise Mistake(f"{line.key} is a switch: write on or off, not {word[:SHOWN_CHARACTERS]!r}")
        return option, "off" if on is is_negative else "on"
    if is_negative:
        raise Mistake(f"write {flag.name.lstrip('-')} = {option.kind.metavar}")
    try:
        option.kind.read(word)
    except ValueError:
        raise Mistake(f"{line.key} takes {option.kind.takes}, not {word[:SHOWN_CHARACTERS]!r}") from None
    return option, word


def _unquoted(value: str, option: Option) -> str:
    """Quotes around a value, or around each of several, are no part of it: other formats of settings need them. Raises
    Mistake for a quote that does not end: the rest would be a value too, and another key than the user has."""
    parts = [part.strip() for part in value.split(",")] if option.takes_several else [value]
    if any(part[:1] in ("'", '"') and not _is_quoted(part) for part in parts):
        parts = [value]
    if parts == [value] and value[:1] in ("'", '"') and not _is_quoted(value):
        raise Mistake(f"{value[0]} begins the value, and must end it too; before a # or ; of a value write \\")
    return ",".join(part[1:-1] if _is_quoted(part) else part for part in parts)


def _is_quoted(word: str) -> bool:
    return len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" and word[0] not in word[1:-1]


def _unknown(key: str, table: FlagTable) -> Mistake:
    bare = key.lstrip("-").replace("_", "-")
    if other := default_table().by_key(key) or default_table().by_key(bare):
        return Mistake(f"{key} is a setting of models: {_place_of(other[0])}")
    keys = [spelling.lstrip("-") for flag in table.flags for spelling in (*flag.spellings, *flag.negatives)]
    near = next(iter(nearest(bare, keys)), None)
    return Mistake(f"unknown key {key[:SHOWN_CHARACTERS]!r}" + (f"; did you mean {near}?" if near else ""), near)


def _place_of(flag: Flag) -> str:
    return f"write it under [*] in a file of --models-preset, or give {flag.name} to llama-router"


def _warn_if_open(config: Config, options: Sequence[Option]) -> None:
    """A file with keys that other users of the machine can read is not refused, as with a file of keys."""
    holds_keys = any(option.kind is KEYS and option.name in config.words for option in options)
    if not holds_keys or config.path is None or os.name != "posix":
        return
    status = config.path.stat()
    if stat.S_ISREG(status.st_mode) and status.st_mode & _OTHERS_MAY_READ:
        log.warning("%s holds keys, and other users can read it: chmod 600 %s", config.path, config.path)
