"""PURE: environment variables that look like settings and are none: misspelt ones, and such as a router does not obey.

A name is compared by what follows its prefix, so that `LLAMA_ROUTER_PORT` leads to `LLAMA_ARG_PORT`. Called by `plan`,
which warns, and by `check`, which reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from router.engine import flags
from router.engine.flags import FlagTable, default_table
from router.errors import FlagError
from router.near import nearest
from router.options import KEYS, Option

MAX_SHOWN_CHARACTERS = 80
_OURS = re.compile(r"LLAMA_(?:ROUTER|ARG)_", re.IGNORECASE)
_PREFIX = re.compile(r"LLAMA_(?:ROUTER_|ARG_|)")
# The router's mark in the environment of its children; a program that a child starts has it too.
_MARKS = frozenset({"LLAMA_ROUTER_RUN"})


class Finding(NamedTuple):
    """`message` is a whole sentence; `nearest` is the variable that was probably meant."""

    name: str
    message: str
    nearest: str | None = None


def without_effect(environ: Mapping[str, str], options: Sequence[Option], table: FlagTable) -> list[Finding]:
    """The variables that set nothing. `table` has the flags of the engine.

    Raises FlagError for a misspelt variable of keys: its user wants to lock the router, which would be open. Such a
    name is one even without a whole prefix (`LLAMA_ADMIN_KEY`)."""
    own = {name: option for option in options for name in option.variables}
    locks = {_word(name) for name, option in own.items() if _is_lock(option)}
    named = [
        name
        for name in environ
        if name not in _MARKS and (_OURS.match(name) or (_PREFIX.match(name) and _word(name) in locks))
    ]
    known = {*own, *_variables(table), *_variables(default_table())}
    by_word = {_word(name): name for name in (*sorted(known), *own)}  # an option comes before a flag of the engine
    found = []
    for name in sorted(set(named) - set(own)):
        if name in known:
            if _is_ignored(name, table):
                found.append(Finding(name, f"{name} has no effect on a router"))
            continue
        near = by_word.get(_word(name)) or next((by_word[word] for word in nearest(_word(name), by_word)), None)
        meant = own.get(near or "")
        if meant and _is_lock(meant):
            raise FlagError(f"{_shown(name)} is not read, so the router would be open: call it {near}")
        hint = f"; did you mean {near}?" if near else ""
        found.append(Finding(name, f"{_shown(name)} is no variable of this router or of its engine{hint}", near))
    return found


def _is_lock(option: Option) -> bool:
    """Whether a router without it is open to more people, or to all that read along."""
    return option.kind is KEYS or option.name.endswith("key-file") or option.name.startswith("--ssl-")


def _variables(table: FlagTable) -> Iterable[str]:
    for flag in table.flags:
        if flag.env:
            yield flag.env
            yield flag.env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")


def _is_ignored(name: str, table: FlagTable) -> bool:
    found = table.by_key(name) or default_table().by_key(name)
    return found is not None and found[0].name in flags.OWNED - {"--alias"}


def _word(name: str) -> str:
    return _PREFIX.sub("", name.upper(), count=1)


def _shown(name: str) -> str:
    short = name[:MAX_SHOWN_CHARACTERS]
    return short if short.isprintable() else ascii(short)
