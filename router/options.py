"""What options are made of: the kinds of values that they take, and the parts of one option.

A kind turns the word that a user has typed into a value, or raises ValueError. Whoever reads the word then makes an
error of it that says what the option `takes`. Used by `settings`, which has a row for each option.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from router import files
from router.access import hosts, origins
from router.engine import flags
from router.engine.flags import Flag

SHOWN_CHARACTERS = 80  # of a wrong word, in its error
HELP_COLUMN, HELP_WIDTH = 32, 68  # where the texts of `--help` begin, and how wide they are


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value.

    `metavar` stands for the value in `--help`.
    `takes` says what is right, for the error about a wrong word.
    `read` makes the value of a word, or raises ValueError.
    `implied` is the word that an option without a value means; empty if a value must be given.
    """

    metavar: str
    takes: str
    read: Callable[[str], Any]
    implied: str = ""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the command line.

    `name` is the first long one of its `spellings`; `negatives` turn a switch off.
    `env` is the variable that sets it too.
    `default` is written as a user would type it; None if there is none.
    A `shared` option is passed on to the children too.
    """

    name: str
    spellings: tuple[str, ...]
    negatives: tuple[str, ...]
    env: str
    default: str | None
    kind: Kind
    help: str
    shared: bool
    other_variables: tuple[str, ...] = ()  # that set it too, if `env` does not

    @property
    def field(self) -> str:
        """Its field in `Settings`."""
        return self.name.lstrip("-").replace("-", "_")

    @property
    def opposite(self) -> str | None:
        """The variable that turns a switch off, whatever its value is; None if there is none."""
        opposite = self.env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")
        return opposite if self.negatives and opposite != self.env else None

    @property
    def variables(self) -> tuple[str, ...]:
        """All variables that set it."""
        return (self.env, *self.other_variables, *([self.opposite] if self.opposite else ()))

    @property
    def takes_several(self) -> bool:
        """Whether it takes several words, with commas between."""
        return self.kind.metavar.endswith(",...")

    @property
    def flag(self) -> Flag:
        """The option as a flag, so that one parser reads it and the engine's flags."""
        arity = 0 if self.kind is SWITCH else 1
        may_stand_alone = bool(self.kind.implied)
        return Flag(self.name, self.spellings, self.negatives, arity, self.env, repeatable=False, alone=may_stand_alone)


def row(
    spellings: str,
    kind: Kind,
    default: str | None,
    help: str,
    *,
    env: str = "",
    other_variables: tuple[str, ...] = (),
    shared: bool = False,
    secret: bool = False,
    absent: Any = None,
) -> Any:
    """A field of `settings.Settings` with its option.

    `spellings` are words; the positive ones come first, and the first long one is the name. `default` is written as a
    user would type it; `absent` is the value if there is no default. The variable is named after the flag unless `env`
    names it. A `secret` value is left out of the settings' repr.
    """
    words = spellings.split()
    positive = tuple(word for word in words if not word.startswith("--no-"))
    name = next(word for word in positive if word.startswith("--"))
    env = env or name.replace("--", "LLAMA_ROUTER_").replace("-", "_").upper()
    made = Option(name, positive, tuple(words[len(positive) :]), env, default, kind, help, shared, other_variables)
    value = absent if default is None else kind.read(default)
    return field(default=value, metadata={"option": made}, repr=not secret)


def help_lines(options: Iterable[Option]) -> list[str]:
    """The options, as `--help` prints them."""
    lines: list[str] = []
    for option in options:
        left = f"{', '.join((*option.spellings, *option.negatives))} {option.kind.metavar}".rstrip()
        default = f"default: {option.default}, " if option.default else ""
        right = textwrap.wrap(f"{option.help} ({default}${option.env})", HELP_WIDTH)
        if len(left) > HELP_COLUMN - 2:
            lines.append(left)
            left = ""
        lines += (f"{word:<{HELP_COLUMN}}{text}" for word, text in zip((left, *[""] * len(right)), right, strict=False))
    return lines


def _number(convert: Callable[[str], float], low: float = 0, high: float = math.inf) -> Callable[[str], float]:
    def read(word: str) -> float:
        if "_" in word or not word.isascii():  # children, which get some of these words, would read another number
            raise ValueError
        number = convert(word)
        if not low <= number <= high or number == math.inf:
            raise ValueError
        return number

    return read


def _words(word: str) -> tuple[str, ...]:
    return tuple(part for raw in word.split(",") if (part := raw.strip()))


def _one_or_more_words(word: str) -> tuple[str, ...]:
    if not (words := _words(word)):
        raise ValueError
    return words


def _hosts(word: str) -> tuple[str, ...]:
    return tuple(part if part == "*" else hosts.parse_host_pattern(part) for part in _words(word))


def _origins(word: str) -> tuple[str, ...]:
    for part in (words := _words(word)):
        if part not in ("*", "null", "localhost"):
            origins.origin_pattern(part)
    return words


def _pairs(word: str) -> tuple[tuple[str, str], ...]:
    """Pairs `PATTERN=MODEL`."""
    pairs = [part.partition("=")[::2] for part in _words(word)]
    if any(not pattern.strip() or not model.strip() for pattern, model in pairs):
        raise ValueError
    return tuple((pattern.strip(), model.strip()) for pattern, model in pairs)


def _paths(word: str) -> Path | tuple[Path, ...]:
    """One path, or several with commas between. A file or folder may have a comma in its own name."""
    whole = files.expanded(_text(word))
    if "," not in word or whole.exists():
        return whole
    several = tuple(map(files.expanded, _one_or_more_words(word)))
    return several if len(several) > 1 else several[0]


def _switch(word: str) -> bool:
    if (on := flags.boolean(word)) is None:
        raise ValueError
    return on


def _text(word: str) -> str:
    if not word.strip():
        raise ValueError
    return word


def _url(word: str) -> str:
    found = urlsplit(word.strip())
    if found.scheme not in ("http", "https") or not found.hostname or found.query or found.fragment:
        raise ValueError
    return word.strip()


def _header(word: str) -> str:
    """The name of a header (RFC 9110, a token), or nothing."""
    if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]*", word, re.ASCII):
        raise ValueError
    return word


def _prefix(word: str) -> str:
    """A path without a slash at its end; empty for none."""
    path = word.strip().rstrip("/")
    if not re.fullmatch(r"(?:/(?!\.{1,2}(?:/|$))[\w.~-]+)*", path, re.ASCII):
        raise ValueError
    return path


def _store(word: str) -> str | None:
    """A folder, "auto" for the usual places, or None for no store."""
    on = flags.boolean(word)
    if on is not None or word.lower() == "auto":
        return None if on is False else "auto"
    return str(files.expanded(_text(word)))


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(word: str) -> str:
        if word.lower() not in choices:
            raise ValueError
        return word.lower()

    return read


SWITCH = Kind("", "on or off", _switch)
TEXT = Kind("NAME", "a name", _text)
PATH = Kind("PATH", "a path", lambda word: files.expanded(_text(word)))
PATHS = Kind("PATH,...", "a path, or several with commas between", _paths)
STORE = Kind("[DIR]", "a folder, or auto for the usual places", _store, implied="auto")
PATTERNS = Kind("PATTERN,...", "patterns with commas between", _words)
ORIGINS = Kind("ORIGIN,...", "origins such as https://example.com, with commas between, localhost or *", _origins)
NAMES = Kind("NAME,...", "names of hosts with commas between, *.example.com or *", _hosts)
HOSTS = Kind("HOST,...", "an address, or several with commas between", _one_or_more_words)
KEYS = Kind("KEY,...", "a key, or several with commas between", _one_or_more_words)
LOAD_ARGS = Kind("WHICH", "safe, any or none", _one_of("safe", "any", "none"))
LOG_FORMAT = Kind("FORMAT", "text or json", _one_of("text", "json"))
LOG_REQUESTS = Kind("WHICH", "off, errors or all", _one_of("off", "errors", "all"))
LOG_ENGINES = Kind("WHICH", "off, warn or all", _one_of("off", "warn", "all"))
LEVEL = Kind("LEVEL", "debug, info, warning or error", _one_of("debug", "info", "warning", "error"))
PORT = Kind("PORT", "a port, 0 to 65535", _number(int, 0, 65535))
COUNT = Kind("N", "a whole number, 0 or more", _number(int))
SECONDS = Kind("SECONDS", "seconds, 0 or more", _number(float))
WHOLE_SECONDS = Kind("SECONDS", "a whole number of seconds, 1 or more, at most 2147483647", _number(int, 1, 2**31 - 1))
MODEL_MAP = Kind("PATTERN=MODEL,...", "PATTERN=MODEL, or several with commas between", _pairs)
MIB = Kind("MIB", "a whole number of MiB, 0 or more", COUNT.read)
ENGINE = Kind("PATH", "a path, or embedded", _text)
PREFIX = Kind("PREFIX", "a path such as /llm, or nothing", _prefix)
URL = Kind("URL", "a URL, http:// or https://", _url)
HEADER = Kind("NAME", "the name of a header, or nothing", _header)
MIBS = Kind("MIB,...", "MiB, one number or one for each device", lambda word: tuple(map(COUNT.read, word.split(","))))
