"""PURE: the first line of a router's log: what a person who reads the log of another one needs to know.

Called by `serve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router import __version__
from router.settings import Settings
from router.units import counted


def greeting(s: Settings, engine: str, build: str, models: int, urls: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The sentence, and the same as fields for programs. No key is among them. `engine` is its kind."""
    fields: dict[str, Any] = {
        "version": __version__,
        "engine": engine,
        "build": build,
        "models": models,
        "api_keys": bool(s.api_key),
        "admin_keys": bool(s.admin_key),
        "models_max": s.models_max,
        "memory_margin_mib": s.models_memory_margin,
        "memory_limit_mib": s.models_memory_limit,
        "queue_max": s.models_queue_max,
        "queue_timeout": s.models_queue_timeout,
        "urls": urls,
    }
    margins = "/".join(map(str, s.models_memory_margin))
    limits = [
        f"at most {counted(s.models_max, 'model')} at once" if s.models_max else "any number of models at once",
        f"{margins} MiB stay free" if any(s.models_memory_margin) else "memory is not checked",
        *([f"{s.models_memory_limit} MiB of RAM for models"] if s.models_memory_limit else []),
        f"{counted(s.models_queue_max, 'request')} may wait, for {s.models_queue_timeout:g} s",
    ]
    parts = [
        f"llama-router {__version__} begins with {engine} ({build})",
        counted(models, "model"),
        f"API keys: {_yes(s.api_key)}, admin keys: {_yes(s.admin_key)}",
        ", ".join(limits),
        ", ".join(urls),
    ]
    return "; ".join(parts), fields


def _yes(keys: Sequence[str]) -> str:
    return "yes" if keys else "no"
