"""What model pickers show of a model, in the fields that Ollama's clients and Open WebUI read."""

from __future__ import annotations

from typing import Any

from router.models.spec import Info, ModelSpec
from router.pool.pool import Pool
from router.pool.status import Status


def details(info: Info) -> dict[str, Any]:
    """Ollama's `details`. An empty string means unknown."""
    return {
        "format": "gguf",
        "family": info.architecture or "",
        "families": [info.architecture] if info.architecture else [],
        "parameter_size": parameter_size(info.n_params) if info.n_params else "",
        "quantization_level": info.quantization or "",
    }


def running_context(status: Status) -> int | None:
    """The context of one request, in tokens, as the model's process reports it; None if none runs."""
    context = (status.info.get("meta") or {}).get("n_ctx") if status.value in ("loaded", "sleeping") else None
    return context if isinstance(context, int) and context > 0 else None


def context_of(pool: Pool, spec: ModelSpec) -> int | None:
    """The context that one request has, in tokens: as the process reports it, else as the estimate expects it, else
    what the model was trained for; None if nothing is known."""
    need = pool.need(spec.name)
    estimated = need.estimate.n_slot if need and need.estimate else None
    return running_context(pool.status(spec.name)) or estimated or spec.info.n_ctx_train


def parameter_size(count: int) -> str:
    """A number of parameters as Ollama writes it, such as `7.6B`."""
    for unit, letter, digits in ((10**12, "T", 1), (10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else digits}f}{letter}"
    return str(count)
