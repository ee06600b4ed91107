"""What model pickers show of a model, in the fields that Ollama's clients and Open WebUI read."""

from __future__ import annotations

from typing import Any

from router.models.spec import Info


def details(info: Info) -> dict[str, Any]:
    """Ollama's `details`. An empty string means unknown."""
    return {
        "format": "gguf",
        "family": info.architecture or "",
        "families": [info.architecture] if info.architecture else [],
        "parameter_size": parameter_size(info.n_params) if info.n_params else "",
        "quantization_level": info.quantization or "",
    }


def parameter_size(count: int) -> str:
    """A number of parameters as Ollama writes it, such as `7.6B`."""
    for unit, letter, digits in ((10**12, "T", 1), (10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else digits}f}{letter}"
    return str(count)
