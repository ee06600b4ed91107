"""PURE: llama-fit-params, the engine's own measure: its arguments, and what the table that it prints means.

The program runs beside llama-server and counts what the server would take, without loading the model. What it counts is
better than a prediction; what it does not count stays as predicted. Called by `estimator`, which runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from router.engine.flags import Arg, render
from router.memory.demand import CUDA_CONTEXT_BYTES, MIB, Estimate
from router.memory.flag_values import slots_of

# The memory flags that llama-fit-params knows too. It ends with an error for a flag that only the server has.
FIT_FLAGS = frozenset(
    (
        *("--model", "--batch-size", "--ubatch-size", "--flash-attn", "--swa-full", "--kv-offload", "--cache-type-k"),
        *("--cache-type-v", "--gpu-layers", "--split-mode", "--tensor-split", "--main-gpu", "--device"),
        *("--override-tensor", "--cpu-moe", "--n-cpu-moe", "--n-cpu-ffn", "--no-host", "--op-offload", "--override-kv"),
    )
)


def fit_args(args: Sequence[Arg], estimate: Estimate) -> list[str]:
    """The arguments with which the program measures what the server would take.

    The number of slots is always given, because the program's own default is one. Repacking is turned off, because its
    table leaves out weights that the CPU repacks.
    """
    kept = [arg for arg in args if not FIT_FLAGS.isdisjoint(arg.flag.spellings)]
    slots, _ = slots_of(args)
    return [*render(kept), "--ctx-size", str(estimate.n_ctx), "--parallel", str(slots), "--no-repack"]


def correct(estimate: Estimate, table: str, *, is_mapped: bool = False) -> Estimate:
    """`estimate` corrected by what `llama-fit-params -fitp on` printed. Raises ValueError for any other text.

    With `is_mapped` weights in RAM are the file itself. The program counts a tensor twice that is used twice, the file
    has it once.

    The table has a row `NAME MODEL CONTEXT COMPUTE` in MiB for each device; `Host` is the last.
    """
    rows = [line.split() for line in table.splitlines()]
    if not rows or any(len(row) != 4 for row in rows) or rows[-1][0] != "Host":
        raise ValueError("this is no table of llama-fit-params")
    devices = [[int(number) * MIB for number in row[1:]] for row in rows]
    *gpus, host = devices
    # Rows are rounded down to MiB. The program makes room for the logits of a whole batch; a server needs less.
    compute = max(row[2] for row in gpus or devices) + MIB - estimate.measured_logits
    found = replace(
        estimate,
        weights=estimate.weights if is_mapped and not gpus else max(estimate.weights, sum(row[0] for row in devices)),
        kv=sum(row[1] for row in devices) or estimate.kv,
        compute=max(estimate.compute, compute),
        is_offloaded=bool(gpus),
    )
    if not gpus:
        return replace(found, fixed=0, host=0, kv_host=0, staging=0)
    return replace(
        found,
        fixed=max(CUDA_CONTEXT_BYTES, estimate.fixed),
        host=host[0] + host[1],
        kv_host=host[1],
        staging=max(host[2] + MIB, estimate.staging),
    )
