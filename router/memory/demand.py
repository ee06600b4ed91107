"""What a model will take, before it is loaded: from its header and its flags, or from the engine's own measure.

Compared with what a real llama-server reports by `python -m tests.benchmarks.accuracy`. All sizes are bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from router.engine.flags import Arg, boolean, render, switch_of, value_of, values_of
from router.memory import compute, kv, weights
from router.memory.kv import Cache
from router.memory.weights import Weights
from router.models.gguf import read_model
from router.models.metadata import Metadata
from router.scheduling.resources import Demand

MIB = 1 << 20
PROCESS = 32 * MIB  # what a child has besides the model: 22 MiB llama-server, 31 MiB the embedded one
CONTEXT = 512 * MIB  # a CUDA context: 300 to 600 MiB, which the engine does not count

# The memory flags that llama-fit-params has too; it ends with an error for one that only the server has.
FIT_FLAGS = frozenset(
    (
        *("--model", "--batch-size", "--ubatch-size", "--flash-attn", "--swa-full", "--kv-offload", "--cache-type-k"),
        *("--cache-type-v", "--gpu-layers", "--split-mode", "--tensor-split", "--main-gpu", "--device"),
        *("--override-tensor", "--cpu-moe", "--n-cpu-moe", "--n-cpu-ffn", "--no-host", "--op-offload", "--override-kv"),
    )
)
# What a draft model's own flags mean for it.
DRAFT_FLAGS = {
    "--spec-draft-override-tensor": "--override-tensor",
    "--spec-draft-cpu-moe": "--cpu-moe",
    "--spec-draft-n-cpu-moe": "--n-cpu-moe",
    "--kv-offload": "--kv-offload",
}
# Kinds of drafting that go back to an earlier state (common/common.h, need_n_rs_seq).
RETURNING = frozenset(("draft-mtp", "draft-eagle3", "draft-dflash", "draft-dspark"))
PINNABLE = re.compile(r"(?:CUDA|ROCm)\d+")  # devices that the router knows, and a visibility mask can pick


@dataclass(frozen=True, slots=True)
class Estimate:
    """`weights` and `kv` are the model's, `extra` is its projector, draft model and adapters, `compute` the buffers
    of one device, `fixed` what a process holds on each GPU besides. `n_ctx` is the context of all slots together,
    `n_slot` what one request can have of it.

    `host` is what of weights, KV and extra stays in RAM although the model is `offloaded`, `kv_host` the KV in it, and
    `staging` the inputs and results of a batch there; without GPUs everything is in RAM. `layers` is what goes to GPUs,
    in the pieces in which it is divided among several: a layer with its KV each, the output last; empty for a split
    that is not by layers. `shares` is how the user divides them. `prompts` is the bound of the prompt cache, which the
    server fills in RAM with use, where a flag sets it; the default bound of 8 GiB is no need and not counted. `logits`
    is what llama-fit-params counts in `compute` and a server does not need.
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
    offloaded: bool = False
    names: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    prompts: int = 0
    logits: int = 0

    @property
    def demand(self) -> Demand:
        total, each = self.weights + self.kv + self.extra, self.compute + self.fixed
        rest = PROCESS + self.prompts
        if not self.offloaded:
            return Demand(host=total + each + rest)
        host = self.host + self.staging + rest
        given = weights.spread(self.layers, self.shares) if self.shares else ()
        whole = Demand(fixed=each, host=host, names=self.names, layers=self.layers, user_split=given)
        return whole.resized(total - self.host)


def demand(args: Sequence[Arg], metadata: Metadata, *, gpus: int, mmproj: Metadata | None = None) -> Estimate:
    """What llama-server with these flags will take on a machine with so many GPUs.

    A value that the engine will refuse counts as its default: the engine's own message is the better one. Raises
    GgufError where the draft model cannot be read.
    """
    gpus = 0 if value_of(args, "--device") == "none" else gpus
    cache = _cache(args, metadata)
    main = _part(args, metadata, cache, _gpu_layers(args, "--gpu-layers", metadata) if gpus else 0)
    draft = _draft(args, metadata, cache, gpus)
    adapters = _adapters(args)
    projector = mmproj.weights_bytes + compute.projector(mmproj, flash=cache.flash) if mmproj else 0
    offloaded = any(main.layers)
    seen = offloaded and switch_of(args, "--mmproj-offload") is not False
    everything = compute.buffers(metadata, cache, all_outputs=True).device
    return Estimate(
        weights=main.weights.total,
        kv=sum(main.kv),
        compute=main.compute,
        fixed=CONTEXT + draft.on_gpus if offloaded else 0,
        n_ctx=cache.length * cache.streams,
        n_slot=_slot(args, metadata, cache),
        extra=draft.total - (draft.on_gpus if offloaded else 0) + adapters + projector,
        host=main.host + draft.host + (0 if seen else projector) if offloaded else 0,
        kv_host=main.kv_host if offloaded else 0,
        staging=main.staging + draft.staging if offloaded else 0,
        offloaded=offloaded,
        names=names(args) if offloaded else (),
        layers=_pieces(args, main, draft, adapters, projector if seen else 0) if offloaded else (),
        shares=_shares(args, len(names(args)) or gpus) if offloaded else (),
        prompts=_number(args, "--cache-ram") * MIB,
        logits=everything - main.buffers,
    )


def names(args: Sequence[Arg]) -> tuple[str, ...]:
    """The GPUs that `--device` restricts a model to, as far as the router can."""
    return tuple(filter(PINNABLE.fullmatch, (value_of(args, "--device") or "").split(",")))


def fit_args(args: Sequence[Arg], estimate: Estimate) -> list[str]:
    """The arguments with which `llama-fit-params` measures what the server would take.

    Its own default is one slot; and weights that the CPU repacks are missing in its table, so they are not repacked.
    """
    kept = [arg for arg in args if not FIT_FLAGS.isdisjoint(arg.flag.spellings)]
    slots, _ = _slots(args)
    return [*render(kept), "--ctx-size", str(estimate.n_ctx), "--parallel", str(slots), "--no-repack"]


def measured(table: str, estimate: Estimate) -> Estimate:
    """`estimate` corrected by what `llama-fit-params -fitp on` printed: a row `NAME MODEL CONTEXT COMPUTE` in MiB for
    each device, `Host` last. What it does not count stays as estimated. Raises ValueError for any other text.
    """
    rows = [line.split() for line in table.splitlines()]
    if not rows or any(len(row) != 4 for row in rows) or rows[-1][0] != "Host":
        raise ValueError("this is no table of llama-fit-params")
    devices = [[int(number) * MIB for number in row[1:]] for row in rows]
    *gpus, host = devices
    # Rows are rounded down. The program makes room for the logits of a whole batch, a server for one token a slot.
    compute = max(row[2] for row in gpus or devices) + MIB - estimate.logits
    return replace(
        estimate,
        weights=max(estimate.weights, sum(row[0] for row in devices)),
        kv=sum(row[1] for row in devices) or estimate.kv,
        compute=max(estimate.compute, compute),
        fixed=max(CONTEXT, estimate.fixed) if gpus else 0,
        host=host[0] + host[1] if gpus else 0,
        kv_host=host[1] if gpus else 0,
        staging=max(host[2] + MIB, estimate.staging) if gpus else 0,
        offloaded=bool(gpus),
    )


# ---- parts


@dataclass(frozen=True, slots=True)
class _Part:
    """One model in the process. `buffers` are the compute buffers of one device, `inputs` what RAM has besides when
    that is a GPU, `outputs` the results in RAM."""

    weights: Weights
    kv: list[int]
    first: int
    kv_in_ram: bool
    buffers: int
    inputs: int
    outputs: int

    @property
    def kv_host(self) -> int:
        return sum(self.kv if self.kv_in_ram else self.kv[: self.first])

    @property
    def layers(self) -> tuple[int, ...]:
        """What of weights and KV goes to GPUs."""
        kv = [0 if self.kv_in_ram or n < self.first else size for n, size in enumerate([*self.kv, 0])]
        return tuple(weights + size for weights, size in zip(self.weights.layers, kv, strict=True))

    @property
    def compute(self) -> int:
        """Of one device; without GPUs RAM is that device."""
        return self.buffers if any(self.layers) else self.buffers + self.outputs

    @property
    def on_gpus(self) -> int:
        """Buffers on each GPU; none for one that is in RAM."""
        return self.compute if any(self.layers) else 0

    @property
    def host(self) -> int:
        """Of one beside a model on GPUs."""
        return self.weights.total + sum(self.kv) - sum(self.layers) + self.compute - self.on_gpus

    @property
    def staging(self) -> int:
        return self.inputs + self.outputs

    @property
    def total(self) -> int:
        return self.weights.total + sum(self.kv) + self.compute


NOTHING = _Part(Weights(0, (0,)), [], 1, True, 0, 0, 0)


def _part(args: Sequence[Arg], metadata: Metadata, cache: Cache, offload: int, *, drafts: bool = False) -> _Part:
    first = metadata.n_layers + 1 - offload
    # When they embed, some models compute no logits.
    embeds = _embeds(args) and metadata.architecture not in compute.HIDDEN
    buffers = compute.buffers(metadata, cache, all_outputs=embeds)
    return _Part(
        weights=weights.place(args, metadata, first, predicts="draft-mtp" in _drafters(args)),
        kv=kv.sizes(metadata, cache, drafts=drafts),
        first=first,
        kv_in_ram=switch_of(args, "--kv-offload") is False,
        buffers=buffers.device,
        inputs=buffers.inputs,
        outputs=compute.outputs(metadata, cache),
    )


def _draft(args: Sequence[Arg], metadata: Metadata, cache: Cache, gpus: int) -> _Part:
    """The model that drafts: its own, or the last layers of the main one, whose weights are there already."""
    cache = replace(
        cache,
        key=kv.BYTES.get(value_of(args, "--spec-draft-type-k") or "", 2.0),
        value=kv.BYTES.get(value_of(args, "--spec-draft-type-v") or "", 2.0),
        snapshots=0,
    )
    if path := value_of(args, "--spec-draft-model"):
        model = read_model(Path(path))
        own = [replace(arg, flag=replace(arg.flag, name=DRAFT_FLAGS.get(arg.flag.name, ""))) for arg in args]
        return _part(own, model, cache, _gpu_layers(args, "--spec-draft-ngl", model) if gpus else 0)
    if "draft-mtp" in _drafters(args) and kv.predicting(metadata):
        part = _part(args, metadata, cache, _gpu_layers(args, "--gpu-layers", metadata) if gpus else 0, drafts=True)
        return replace(part, weights=Weights(0, (0,) * len(part.weights.layers)))
    return NOTHING


def _pieces(args: Sequence[Arg], main: _Part, draft: _Part, adapters: int, projector: int) -> tuple[int, ...]:
    """What goes to GPUs, in the pieces in which llama.cpp divides it (llama-model.cpp, `load_tensors`).

    By the same shares as the main model's layers, and so with them, go those of a draft model (common/speculative.cpp)
    and the adapters of each; a projector goes to the first GPU (tools/mtmd/clip.cpp).
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
    for part in (main, draft):
        offloaded = part.layers[part.first :]
        for n, size in enumerate(offloaded):
            pieces[n * count // len(offloaded)] += size
    return tuple(pieces)


def _shares(args: Sequence[Arg], gpus: int) -> tuple[float, ...]:
    """How the user divides the layers over several GPUs; empty where that is left to us, and for what is no number."""
    words = re.split("[,/]+", value_of(args, "--tensor-split") or "")[:gpus]
    try:
        shares = tuple(float(word) for word in words)
    except ValueError:
        return ()
    is_by_layers = value_of(args, "--split-mode") in (None, "layer")
    return shares if is_by_layers and shares and min(shares) >= 0 < sum(shares) < inf else ()


def _adapters(args: Sequence[Arg]) -> int:
    """Bytes of the LoRA files."""
    plain = ",".join(values_of(args, "--lora")).split(",")
    scaled = [each.rpartition(":")[0] for each in ",".join(values_of(args, "--lora-scaled")).split(",")]
    return sum(Path(path).stat().st_size for path in [*plain, *scaled] if path and Path(path).is_file())


# ---- flags


def _cache(args: Sequence[Arg], metadata: Metadata) -> Cache:
    slots, unified = _slots(args)
    streams = 1 if unified else slots
    n_ctx = _number(args, "--ctx-size") or slots * _number(args, "--kv-unified-per-slot")
    if not n_ctx:  # the trained context; `--fit` gives it to every stream (common/fit.cpp)
        fit = boolean(value_of(args, "--fit") or "") is not False
        n_ctx = (metadata.context_length or 4096) * (streams if fit else 1)
    return Cache(
        length=kv.padded(kv.padded(n_ctx) // streams),
        streams=streams,
        slots=slots,
        batch=min(n_ctx, _number(args, "--batch-size") or 2048, _number(args, "--ubatch-size") or 512),
        key=kv.BYTES.get(value_of(args, "--cache-type-k") or "", 2.0),
        value=kv.BYTES.get(value_of(args, "--cache-type-v") or "", 2.0),
        flash=boolean(value_of(args, "--flash-attn") or "") is not False,
        full_window=switch_of(args, "--swa-full") is True,
        snapshots=0 if RETURNING.isdisjoint(_drafters(args)) else _number(args, "--spec-draft-n-max") or 3,
    )


def _slots(args: Sequence[Arg]) -> tuple[int, bool]:
    """How many slots there are, and whether they share one KV cache (tools/server/server.cpp)."""
    slots = _number(args, "--parallel")
    return (slots, switch_of(args, "--kv-unified") is True) if slots else (4, True)


def _slot(args: Sequence[Arg], metadata: Metadata, cache: Cache) -> int:
    """Tokens that a request has room for (`n_ctx_slot` in tools/server/server-context.cpp)."""
    limits = (cache.length, _number(args, "--kv-unified-per-slot"), metadata.context_length)
    return min(limit for limit in limits if limit)


def _drafters(args: Sequence[Arg]) -> list[str]:
    return (value_of(args, "--spec-type") or "").split(",")


def _gpu_layers(args: Sequence[Arg], name: str, metadata: Metadata) -> int:
    """How many layers go to GPUs, from the last one down; the output counts as one."""
    value, everything = value_of(args, name), metadata.n_layers + 1
    return min(int(value), everything) if value and value.isdecimal() and len(value) <= 10 else everything


def _embeds(args: Sequence[Arg]) -> bool:
    pooling = value_of(args, "--pooling")
    return bool(switch_of(args, "--embedding") or switch_of(args, "--rerank") or (pooling and pooling != "none"))


def _number(args: Sequence[Arg], name: str) -> int:
    """A count; 0 for automatic, and for what is none: more digits than those of 2**31 - 1 the engine refuses."""
    value = value_of(args, name)
    return int(value) if value and value.isdecimal() and len(value) <= 10 else 0
