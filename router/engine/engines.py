"""Several llama-servers side by side: those that models name by the preset key `engine`.

A model may need another build than the others: a newer one, a fork, one for another GPU. What it names is looked for as
`--engine` is, once, and again when the program's file is another one. An engine that cannot be used costs its models
alone. Only the operator names engines: neither presets from the hub nor requests may. Called by `models`, `memory` and
`node`; all of them have the name from the model's spec.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from router.engine import discovery
from router.engine.discovery import Engine
from router.engine.flags import Arg, FlagTable
from router.errors import EngineError

MAX_KNOWN = 64
FAILURE_LASTS_S = 30.0  # an engine that does not answer is asked again after this time, and not for each of its models

T = TypeVar("T")

_lock = threading.Lock()
_found: dict[str, tuple[object, Engine]] = {}
_tables: dict[str, tuple[object, FlagTable]] = {}
_failures: dict[str, tuple[object, float, EngineError]] = {}


def named(choice: str) -> Engine:
    """The engine of this name. It is not run. Raises EngineError if there is none."""
    with _lock:
        known = _found.get(choice)
    if known and known[0] == known[1].identity() != ():
        return known[1]
    try:
        engine = discovery.find(choice, os.environ)
    except EngineError as error:
        raise EngineError(error.message.replace("--engine", f"engine = {choice}", 1)) from error
    _remember(_found, choice, (engine.identity(), engine))
    return engine


def table_of(choice: str) -> FlagTable:
    """The flags of the engine of this name. It is run if it was not asked before, or if its file is another one.
    Raises EngineError."""
    engine = named(choice)
    identity = engine.identity()
    with _lock:
        known, failure = _tables.get(choice), _failures.get(choice)
    if known and known[0] == identity:
        return known[1]
    if failure and failure[0] == identity and time.monotonic() < failure[1]:
        raise failure[2]
    try:
        engine.version()
        table = engine.table()
    except EngineError as error:
        _remember(_failures, choice, (identity, time.monotonic() + FAILURE_LASTS_S, error))
        raise
    _remember(_tables, choice, (identity, table))
    return table


def bound_to(args: Iterable[Arg], table: FlagTable) -> tuple[tuple[Arg, ...], list[str]]:
    """The arguments as this engine spells their flags, and the names of the flags that it does not have."""
    bound, unknown = [], []
    for arg in args:
        flag = next((found for spelling in arg.flag.spellings if (found := table.find(spelling))), None)
        if flag is None or flag.arity != arg.flag.arity:
            unknown.append(arg.flag.name)
        else:
            bound.append(replace(arg, flag=flag))
    return tuple(bound), unknown


def _remember(known: dict[str, T], choice: str, value: T) -> None:
    with _lock:
        known.pop(choice, None)
        known[choice] = value
        while len(known) > MAX_KNOWN:
            del known[next(iter(known))]
