"""What pickers show of a model, in the words that Ollama's clients and Open WebUI know."""

from __future__ import annotations

from typing import Any

from router.models.spec import Info


def details(info: Info) -> dict[str, Any]:
    """Empty strings are unknown."""
    return {
        "format": "gguf",
        "family": info.architecture or "",
        "families": [info.architecture] if info.architecture else [],
        "parameter_size": human(info.n_params) if info.n_params else "",
        "quantization_level": info.quantization or "",
    }


def human(count: int) -> str:
    """`7.6B`, the way Ollama counts parameters."""
    for unit, letter, digits in ((10**12, "T", 1), (10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else digits}f}{letter}"
    return str(count)
