"""What a flag's value sets in xllamacpp's CommonParams.

Most flags set one attribute, by its path (`attribute`). The functions in the second half of this module are for flags
that set more than that. A setter takes the CommonParams and the value. It raises AttributeError where this xllamacpp
is too old for the flag, and ValueError for a value that it cannot use. `table` names a setter in each row; `arguments`
calls it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from router.engine.embedded.library import Params, xllamacpp
from router.engine.embedded.readers import pooling, speculative_type

Setter = Callable[[Params, Any], None]

MAX_VERBOSITY = 0x7FFFFFFF


# By the path of an attribute, such as `sampling.top_k`


def owner_of(params: Params, path: str) -> tuple[Any, str]:
    """The object that has the attribute, and the attribute's name."""
    *owners, name = path.split(".")
    for owner in owners:
        params = getattr(params, owner)
    return params, name


def attribute(path: str) -> Setter:
    def put(params: Params, value: Any) -> None:
        owner, name = owner_of(params, path)
        setattr(owner, name, value)
        if path.startswith("sampling."):  # marks it as the user's, so that the model's own default does not replace it
            marks = xllamacpp.common_params_sampling_config.__members__
            owner.user_sampling_config |= marks.get(f"COMMON_PARAMS_SAMPLING_CONFIG_{name.upper()}", 0)

    return put


def attributes(*paths: str) -> Setter:
    """The same value for several attributes."""

    def put(params: Params, value: Any) -> None:
        for path in paths:
            attribute(path)(params, value)

    return put


def extend(path: str) -> Setter:
    """More items for a list or a set."""

    def put(params: Params, values: Iterable[Any]) -> None:
        present = getattr(*owner_of(params, path))
        attribute(path)(params, type(present)([*present, *values]))

    return put


def extend_rules(path: str, fixed: str = "") -> Setter:
    """More rules `tensor pattern=buffer type`. A flag without a value has `fixed` ones."""

    def put(params: Params, rules: Any) -> None:
        if rules:
            present = getattr(*owner_of(params, path))
            attribute(path)(params, ",".join(filter(None, (present, fixed or rules))))

    return put


def affinity(path: str) -> Setter:
    """More CPUs on which threads may run."""

    def put(params: Params, cpus: set[int]) -> None:
        cpu_params = getattr(*owner_of(params, path))
        cpu_params.cpumask = [present or cpu in cpus for cpu, present in enumerate(cpu_params.cpumask)]
        cpu_params.mask_valid = True

    return put


# Of single flags


def context_size(params: Params, size: int) -> None:
    params.n_ctx = size
    if size == 0:  # 0 requests the whole trained context: fitting to memory must not shrink it
        params.fit_params_min_ctx = -1


def tensor_split(params: Params, shares: list[float]) -> None:
    params.tensor_split = shares + [0.0] * (len(params.tensor_split) - len(shares))


def fit_target(params: Params, mib: list[float]) -> None:
    """MiB to leave free on each device; one value stands for all."""
    present = params.fit_params_target
    margins = [int(margin) << 20 for margin in mib] * (len(present) if len(mib) == 1 else 1)
    params.fit_params_target = margins + present[len(margins) :]


def device(params: Params, name: str) -> None:
    if name != "none":
        raise ValueError("the embedded engine takes only none; choose devices by CUDA_VISIBLE_DEVICES or the like")
    params.n_gpu_layers, params.no_op_offload, params.mmproj_use_gpu = 0, True, False


def mmproj_device(params: Params, name: str) -> None:
    params.mmproj_use_gpu = name != "none"
    if params.mmproj_use_gpu:
        params.mmproj_device = name


def repeat_last_n(params: Params, size: int) -> None:
    attribute("sampling.penalty_last_n")(params, size)
    params.sampling.n_prev = max(params.sampling.n_prev, size)


def dry_base(params: Params, base: float) -> None:
    if base >= 1.0:
        params.sampling.dry_base = base


def reranking(params: Params, is_on: bool) -> None:
    if is_on:
        params.embedding, params.pooling_type = True, pooling("rank")


def default_speculation(params: Params, is_on: bool) -> None:
    if is_on:
        extend("speculative.types")(params, [speculative_type("ngram-mod")])
        ngrams = params.speculative.ngram_mod
        ngrams.n_match, ngrams.n_min, ngrams.n_max = 24, 48, 64


def performance_timings(params: Params, is_on: bool) -> None:
    params.no_perf = params.sampling.no_perf = not is_on


def verbose(params: Params, is_on: bool) -> None:
    if is_on:
        params.verbosity = MAX_VERBOSITY


def agent(params: Params, is_on: bool) -> None:
    params.server_tools, params.ui_mcp_proxy = ["all"] if is_on else [], is_on


def cors_origins(params: Params, origins: str) -> None:
    params.cors_origins, params.cors_origins_explicit = origins, True


def template_values(params: Params, values: Mapping[str, str]) -> None:
    params.default_template_kwargs = {**params.default_template_kwargs, **values}


def reasoning(params: Params, is_on: bool | None) -> None:
    """None lets the template choose."""
    params.enable_reasoning = -1 if is_on is None else int(is_on)
    if is_on is not None:
        template_values(params, {"enable_thinking": json.dumps(is_on)})


def reasoning_effort(params: Params, level: str) -> None:
    values = {key: value for key, value in params.default_template_kwargs.items() if key != "reasoning_effort"}
    params.default_template_kwargs = values if level == "default" else {**values, "reasoning_effort": json.dumps(level)}


def preserve_reasoning(params: Params, is_on: bool) -> None:
    template_values(params, {"preserve_reasoning": json.dumps(is_on)})
    params.preserve_reasoning_specified = True


def nothing(params: Params, value: Any) -> None:
    """The flag is accepted, so that one preset fits both engines. It would change only what the log looks like."""
