"""PURE: the parameters of Ollama's models, in the engine's names and types.

Requests have the same ones as `options` (`api.ollama.options`). In a store they are what somebody has written, so only
those of the two tables here mean anything, and each value is checked; none of them can name a file. Ollama's names are
those of its api/types.go, the engine's those of tools/server/README.md and common/arg.cpp of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Ollama's options, the engine's names for them, and their types.
OPTIONS: Mapping[str, tuple[str, type]] = {
    "temperature": ("temperature", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "typical_p": ("typical_p", float),
    "seed": ("seed", int),
    "num_predict": ("n_predict", int),
    "num_keep": ("n_keep", int),
    "repeat_penalty": ("repeat_penalty", float),
    "repeat_last_n": ("repeat_last_n", int),
    "presence_penalty": ("presence_penalty", float),
    "frequency_penalty": ("frequency_penalty", float),
    "mirostat": ("mirostat", int),
    "mirostat_tau": ("mirostat_tau", float),
    "mirostat_eta": ("mirostat_eta", float),
}
# Values that mean "no limit". They are left out: without a limit the engine generates until the context is full.
UNLIMITED = frozenset((("num_predict", 0), ("num_predict", -1), ("num_predict", -2), ("repeat_last_n", -1)))

# Parameters that say how a model is loaded: flags of the engine, the least and the greatest value that is believed.
LOAD: Mapping[str, tuple[str, int, int]] = {
    "num_ctx": ("--ctx-size", 1, 1 << 24),
    "num_gpu": ("--n-gpu-layers", 0, 10_000),
    "num_batch": ("--batch-size", 1, 1 << 16),
    "num_thread": ("--threads", 1, 1024),
}
MAX_NUMBER = 2**53  # beyond it, JSON's numbers are not exact
MAX_LOOK_BACK = 2**20  # tokens of repeat_last_n, which the engine keeps in memory
MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1000
MAX_SHOWN = 20  # names of parameters in a note


@dataclass(frozen=True, slots=True)
class Translated:
    """`shown` are the parameters that have an effect, in Ollama's names.

    `defaults` are fields of a request to the engine, and `load` flags of its process with their values.
    `ignored` are the names of all others.
    """

    shown: Mapping[str, Any]
    defaults: Mapping[str, Any]
    load: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]


def translate(parameters: Mapping[str, Any]) -> Translated:
    """What a store says, as far as it means something here."""
    shown: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    load: list[tuple[str, str]] = []
    ignored: list[str] = []
    for name, given in parameters.items():
        value = _checked(name, given)
        if value is None:
            if given is not None and len(ignored) < MAX_SHOWN:
                ignored.append(name[:80] if name.isprintable() else "?")
            continue
        shown[name] = value
        if name in LOAD:
            load.append((LOAD[name][0], str(value)))
        elif name == "stop":
            defaults["stop"] = value
        elif (name, value) not in UNLIMITED:
            defaults[OPTIONS[name][0]] = value
    return Translated(shown, defaults, tuple(load), tuple(ignored))


def _checked(name: str, value: Any) -> Any:
    """The value in its type; None if it means nothing here."""
    if name == "stop":
        stops = [value] if isinstance(value, str) else value
        is_right = isinstance(stops, list) and all(isinstance(s, str) and len(s) <= MAX_STOP_CHARACTERS for s in stops)
        return stops if is_right and 0 < len(stops) <= MAX_STOPS else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_NUMBER < value < MAX_NUMBER:
        return None
    if name in LOAD:
        _, least, most = LOAD[name]
        return int(value) if value == int(value) and least <= value <= most else None
    if name not in OPTIONS or (name == "repeat_last_n" and value > MAX_LOOK_BACK):
        return None
    kind = OPTIONS[name][1]
    return kind(value) if kind is float or value == int(value) else None
