"""PURE: whether the prompt cache of a process is the router's to bound, and by how much it could use at most.

llama-server keeps the prompts of past conversations in RAM (`--cache-ram`, 8 GiB by default; tools/server). Builds that
have the flag get it from the plan, unless the operator has set it; what was set holds, and is a need of the model. A
model that gives no text has no use for such a cache, and gets none. Called by `estimator`.
"""

from __future__ import annotations

from router.engine.flags import FlagTable, value_of
from router.models.spec import ModelSpec

FLAG = "--cache-ram"
ENGINE_DEFAULT_BYTES = 8192 << 20


def most(spec: ModelSpec, table: FlagTable) -> int:
    """The most bytes that the plan may give; 0 if the plan does not decide. `spec` has all arguments of the child."""
    return ENGINE_DEFAULT_BYTES if _is_open(spec, table) and _gives_text(spec) else 0


def args_without(spec: ModelSpec, table: FlagTable) -> tuple[str, ...]:
    """The words that turn the cache off for a model that has no use for it. `spec` is described."""
    return (FLAG, "0") if _is_open(spec, table) and not _gives_text(spec) else ()


def args_for(promised: int) -> tuple[str, ...]:
    """The words for a process that was promised so many bytes."""
    return FLAG, str(promised >> 20)


def _is_open(spec: ModelSpec, table: FlagTable) -> bool:
    return table.find(FLAG) is not None and value_of(spec.args, FLAG) is None


def _gives_text(spec: ModelSpec) -> bool:
    return "completion" in spec.info.capabilities
