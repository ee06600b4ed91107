"""What a process will take before it is loaded: predicted from the model's header and its flags.

`Estimate` has the parts, and `Estimate.demand` is what the scheduler plans with. The prediction is compared with what a
real llama-server reports by `python -m tests.benchmarks.accuracy`. All sizes are bytes. Called by `estimator`; if the
engine can measure, `fit_params` corrects the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from router.engine.flags import Arg, switch_of, value_of, values_of
from router.memory import compute, flag_values
from router.memory.flag_values import gpu_names, tensor_split
from router.memory.model_bytes import ModelBytes, draft_model, main_model
from router.memory.overrides import overridden
from router.memory.projectors import projector_bytes
from router.memory.weights import split_by_shares
from router.models.metadata import Metadata
from router.scheduling.resources import Demand

MIB = 1 << 20
PROCESS_BYTES = 32 * MIB  # what a child takes besides the model: 22 MiB llama-server, 31 MiB the embedded one
CUDA_CONTEXT_BYTES = 512 * MIB  # 300 to 600 MiB, which the engine does not count


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a process takes, part by part.

    `weights` and `kv` are the main model's, wherever they are.
    `compute` is the buffers of one device.
    `fixed` is what the process holds on each GPU besides.
    `n_ctx` is the context of all slots together, in tokens.
    `n_slot` is the context that one request can have, in tokens.
    `extra` is the projector, the draft model and the adapters.
    `host` is the part of weights, KV and extra that stays in RAM although the model uses GPUs.
    `kv_host` is the KV in `host`.
    `staging` is the inputs and results of a batch in RAM, if the model uses GPUs.
    `is_offloaded` is whether the model uses GPUs. If not, everything is in RAM.
    `names` are the GPUs to which the user restricts it; empty for any.
    `layers` is what goes to GPUs, in the pieces in which it is divided among several: a layer with its KV each, the
    output last. Empty for a split that is not by layers.
    `shares` is how the user divides the layers; empty if the division is left to us.
    `prompt_cache` is the bound of the prompt cache in RAM, if a flag sets one. The server fills it with use. The
    default bound of 8 GiB is no need, so it is not counted.
    `measured_logits` is what llama-fit-params counts in `compute` although a server does not need it.
    """

    weights: int
    kv: int
    compute: int
    fixed: int
    n_ctx: int
    n_slot: int = 0
    extra: int = 0
    host: int = 0
    kv_host: int = 0
    staging: int = 0
    is_offloaded: bool = False
    names: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    prompt_cache: int = 0
    measured_logits: int = 0

    @property
    def demand(self) -> Demand:
        total, on_each_device = self.weights + self.kv + self.extra, self.compute + self.fixed
        besides = PROCESS_BYTES + self.prompt_cache
        if not self.is_offloaded:
            return Demand(host=total + on_each_device + besides)
        host = self.host + self.staging + besides
        user_split = split_by_shares(self.layers, self.shares) if self.shares else ()
        whole = Demand(fixed=on_each_device, host=host, names=self.names, layers=self.layers, user_split=user_split)
        return whole.resized(total - self.host)


def predict(args: Sequence[Arg], metadata: Metadata, *, gpus: int, projector: int = 0) -> Estimate:
    """What llama-server with these flags will take on a machine with so many GPUs. `projector`: see `projector_size`.

    Raises GgufError if the draft model cannot be read.
    """
    gpus = 0 if value_of(args, "--device") == "none" else gpus
    metadata = overridden(args, metadata)
    cache = flag_values.kv_cache(args, metadata)
    main = main_model(args, metadata, cache, gpus)
    draft = draft_model(args, metadata, cache, gpus)
    adapters = _adapter_bytes(args)
    is_offloaded = any(main.layers)
    has_projector_on_gpu = is_offloaded and switch_of(args, "--mmproj-offload") is not False
    extra = draft.total + adapters + projector
    # llama-fit-params makes room for the logits of a whole batch; a server needs one token's for each slot.
    all_outputs = compute.buffers(metadata, cache, all_outputs=True).device
    common = Estimate(
        weights=main.weights.total,
        kv=sum(main.kv),
        compute=main.compute,
        fixed=0,
        n_ctx=cache.cells * cache.streams,
        n_slot=flag_values.slot_tokens(args, metadata, cache),
        extra=extra,
        prompt_cache=flag_values.number(args, "--cache-ram") * MIB,
        measured_logits=all_outputs - main.buffers,
    )
    if not is_offloaded:
        return common
    return replace(
        common,
        fixed=CUDA_CONTEXT_BYTES + draft.compute_on_gpus,
        extra=extra - draft.compute_on_gpus,  # they repeat on each GPU, so they are in `fixed`
        host=main.host + draft.host + (0 if has_projector_on_gpu else projector),
        kv_host=main.kv_host,
        staging=main.staging + draft.staging,
        is_offloaded=True,
        names=gpu_names(args),
        layers=_pieces(args, main, draft, adapters, projector if has_projector_on_gpu else 0),
        shares=tensor_split(args, len(gpu_names(args)) or gpus),
    )


def _pieces(args: Sequence[Arg], main: ModelBytes, draft: ModelBytes, adapters: int, projector: int) -> tuple[int, ...]:
    """What goes to GPUs, in the pieces in which llama.cpp divides it (llama-model.cpp, `load_tensors`).

    The layers of a draft model (common/speculative.cpp) and the adapters of each layer are divided by the same shares
    as the main model's layers, so they go with them. A projector goes to the first GPU (tools/mtmd/clip.cpp).
    """
    match value_of(args, "--split-mode"):
        case "row" | "tensor":
            return ()
        case "none":
            count = 1
        case _:
            count = max(1, len(main.layers) - main.first)
    pieces = [adapters // count] * count
    pieces[0] += adapters % count + projector
    for model in (main, draft):
        offloaded = model.layers[model.first :]
        for n, size in enumerate(offloaded):
            pieces[n * count // len(offloaded)] += size
    return tuple(pieces)


def projector_size(args: Sequence[Arg], mmproj: Metadata) -> int:
    """Bytes of a projector with its buffers, as the engine counts them: for the largest picture.

    This takes milliseconds, and contexts and batches change nothing of it.
    """
    max_tokens = flag_values.number(args, "--image-max-tokens")
    return mmproj.weights_bytes + projector_bytes(mmproj, flash=flag_values.has_flash(args), max_tokens=max_tokens)


def _adapter_bytes(args: Sequence[Arg]) -> int:
    """The size of the LoRA files."""
    plain = ",".join(values_of(args, "--lora")).split(",")
    scaled = [each.rpartition(":")[0] for each in ",".join(values_of(args, "--lora-scaled")).split(",")]
    return sum(Path(path).stat().st_size for path in [*plain, *scaled] if path and Path(path).is_file())
