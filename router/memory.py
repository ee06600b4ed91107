"""What a model will take, before it is loaded: from its header and its flags, or from the engine's own measure.

The rules are llama.cpp's, read in b11434 and compared with the buffers that its server reports (`-lv 4`): for llama,
qwen3, gemma3 and mixture-of-experts headers of 0.5 to 70 billion parameters they agree within 1 % on the CPU. All
sizes are bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from router.flags import Arg, boolean, render, switch_of, value_of, values_of
from router.gguf import TYPES, Metadata, read_model
from router.policy import Demand

MIB = 1 << 20
PROCESS = 32 * MIB  # what a child has besides the model: 22 MiB llama-server, 31 MiB the embedded one
CONTEXT = 512 * MIB  # a CUDA context: 300 to 600 MiB, which the engine does not count

# Bytes that one element of a KV cache takes, block overhead included.
KV_BYTES = {name.lower(): size / elements for name, elements, size in TYPES.values()}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# These attend over the whole batch at once and keep nothing (llama_model::create_memory).
NO_CACHE = _names("""
    bert jina-bert-v2 jina-bert-v3 nomic-bert nomic-bert-moe neo-bert eurobert modern-bert gemma-embedding
    dream llada llada-moe rnd1
""")

# Every n-th layer attends to the whole context, the others to a window, unless the file tells (src/models).
WINDOW_PERIOD = {"gemma2": 2, "gpt-oss": 2, "gemma3n": 5, "gemma3": 6, "plamo3": 8} | dict.fromkeys(
    _names("cohere2 cohere2moe exaone4 exaone-moe llama4 olmo2 smallthinker afmoe mellum laguna"), 4
)

# The memory flags that llama-fit-params has too; it ends with an error for one that only the server has.
FIT_FLAGS = _names("""
    --model --batch-size --ubatch-size --flash-attn --swa-full --kv-offload --cache-type-k --cache-type-v
    --gpu-layers --split-mode --tensor-split --main-gpu --device --override-tensor --cpu-moe --n-cpu-moe
    --n-cpu-ffn --no-host --op-offload --override-kv
""")


@dataclass(frozen=True, slots=True)
class Estimate:
    """`weights` and `kv` are the model's, `extra` is its projector, draft model and adapters, `compute` the buffers
    of one device, `fixed` what a process holds on each GPU besides. `n_ctx` is the context of all slots together.

    `host` is what of weights and KV stays in RAM although the model is `offloaded`; without GPUs everything does.
    `logits` is what llama-fit-params counts in `compute` and a server does not need.
    """

    weights: int
    kv: int
    compute: int
    fixed: int
    n_ctx: int
    extra: int = 0
    host: int = 0
    offloaded: bool = False
    names: tuple[str, ...] = ()
    logits: int = 0

    @property
    def demand(self) -> Demand:
        total, each = self.weights + self.kv + self.extra, self.compute + self.fixed
        if not self.offloaded:
            return Demand(host=total + each + PROCESS)
        return Demand(split=total - self.host, fixed=each, host=self.host + PROCESS, names=self.names)


def demand(args: Sequence[Arg], metadata: Metadata, *, gpus: int, mmproj: Metadata | None = None) -> Estimate:
    """What llama-server with these flags will take on a machine with so many GPUs.

    A value that the engine will refuse counts as its default: the engine's own message is the better one. Raises
    GgufError where the draft model cannot be read.
    """
    context = _context(args, metadata)
    names = tuple(name for name in (value_of(args, "--device") or "").split(",") if name)
    layers = 0 if not gpus or names == ("none",) else _gpu_layers(args, metadata)
    weights, weights_host = _weights(args, metadata, layers)
    kv = _cache(metadata, context, _types(args, "--cache-type-k", "--cache-type-v"))
    kv_host = kv if switch_of(args, "--kv-offload") is False else kv[: metadata.n_layers + 1 - layers]
    compute = _compute(metadata, context, all_outputs=_embeds(args))
    return Estimate(
        weights=weights,
        kv=sum(kv),
        compute=compute,
        fixed=CONTEXT if layers else 0,
        n_ctx=context.length * context.streams,
        extra=_extra(args, mmproj, context),
        host=weights_host + sum(kv_host) if layers else 0,
        offloaded=layers > 0,
        names=names if layers else (),
        logits=_compute(metadata, context, all_outputs=True) - compute,
    )


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
        fixed=CONTEXT if gpus else 0,
        host=host[0] + host[1] if gpus else 0,
        offloaded=bool(gpus),
    )


# ---- flags


@dataclass(frozen=True, slots=True)
class _Context:
    """A KV cache: `length` cells in each of `streams`, for `slots` sequences, filled `batch` tokens at a time."""

    length: int
    streams: int
    slots: int
    batch: int
    flash: bool
    full_window: bool

    def window(self, width: int) -> int:
        """Cells of a layer with a sliding window (llama-kv-cache-iswa.cpp)."""
        if self.full_window:
            return self.length
        return _padded(min(self.length, width * (self.slots // self.streams) + self.batch))


def _context(args: Sequence[Arg], metadata: Metadata) -> _Context:
    slots, unified = _slots(args)
    streams = 1 if unified else slots
    n_ctx = _number(args, "--ctx-size") or slots * _number(args, "--kv-unified-per-slot")
    if not n_ctx:  # the trained context; `--fit` gives it to every stream (common/fit.cpp)
        fit = boolean(value_of(args, "--fit") or "") is not False
        n_ctx = (metadata.context_length or 4096) * (streams if fit else 1)
    return _Context(
        length=_padded(n_ctx // streams),
        streams=streams,
        slots=slots,
        batch=min(n_ctx, _number(args, "--batch-size") or 2048, _number(args, "--ubatch-size") or 512),
        flash=boolean(value_of(args, "--flash-attn") or "") is not False,
        full_window=switch_of(args, "--swa-full") is True,
    )


def _slots(args: Sequence[Arg]) -> tuple[int, bool]:
    """How many slots there are, and whether they share one KV cache (tools/server/server.cpp)."""
    slots = _number(args, "--parallel")
    return (slots, switch_of(args, "--kv-unified") is True) if slots else (4, True)


def _gpu_layers(args: Sequence[Arg], metadata: Metadata) -> int:
    """How many layers go to GPUs, from the last one down; the output counts as one."""
    value, everything = value_of(args, "--gpu-layers"), metadata.n_layers + 1
    return min(int(value), everything) if value and value.isdecimal() else everything


def _types(args: Sequence[Arg], k: str, v: str) -> tuple[float, float]:
    return KV_BYTES.get(value_of(args, k) or "", 2.0), KV_BYTES.get(value_of(args, v) or "", 2.0)


def _embeds(args: Sequence[Arg]) -> bool:
    return bool(switch_of(args, "--embedding") or switch_of(args, "--rerank") or value_of(args, "--pooling"))


def _number(args: Sequence[Arg], name: str) -> int:
    """A count; 0 for automatic, and for what is none."""
    value = value_of(args, name)
    return int(value) if value and value.isdecimal() and len(value) < 10 else 0


def _padded(cells: int) -> int:
    return -(-cells // 256) * 256


# ---- weights


def _weights(args: Sequence[Arg], metadata: Metadata, layers: int) -> tuple[int, int]:
    """All bytes, and what of them is in RAM: the token embeddings, the first layers, overridden tensors."""
    first = metadata.n_layers + 1 - layers
    overrides = _overrides(args)
    total = host = embeddings = 0
    for tensor in metadata.tensors:
        layer = re.match(r"blk\.(\d+)\.", tensor.name)
        total += tensor.nbytes
        if tensor.name.startswith("token_embd"):
            embeddings += tensor.nbytes
        elif (layer and int(layer[1]) < first) or any(override.search(tensor.name) for override in overrides):
            host += tensor.nbytes
    tied = all(tensor.name != "output.weight" for tensor in metadata.tensors)
    # Tied embeddings are in RAM for the input, and on a GPU once more for the output.
    return total + (embeddings if tied and layers else 0), host + embeddings


def _overrides(args: Sequence[Arg]) -> list[re.Pattern[str]]:
    """Which tensors flags keep in RAM (common/arg.cpp)."""
    experts, dense = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps", r"\.ffn_(up|down|gate)\."
    patterns = [experts] if switch_of(args, "--cpu-moe") else []
    for name, part in (("--n-cpu-moe", experts), ("--n-cpu-ffn", dense)):
        patterns += [rf"blk\.{layer}{part}" for layer in range(min(_number(args, name), 512))]
    for given in ",".join(values_of(args, "--override-tensor")).split(","):
        pattern, _, buffer = given.rpartition("=")
        patterns += [pattern] if buffer == "CPU" else []
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error:
            continue  # C++ knows some that Python does not
    return compiled


def _extra(args: Sequence[Arg], mmproj: Metadata | None, context: _Context) -> int:
    # The projector's buffers depend on the pictures that will come; a quarter of its weights is a guess.
    extra = mmproj.weights_bytes * 5 // 4 if mmproj else 0
    if path := value_of(args, "--spec-draft-model"):
        draft = read_model(Path(path))
        extra += draft.weights_bytes + _compute(draft, context, all_outputs=False)
        extra += sum(_cache(draft, context, _types(args, "--spec-draft-type-k", "--spec-draft-type-v")))
    adapters = ",".join(values_of(args, "--lora")).split(",")
    return extra + sum(Path(path).stat().st_size for path in adapters if path and Path(path).is_file())


# ---- KV cache


def _cache(metadata: Metadata, context: _Context, types: tuple[float, float]) -> list[int]:
    """Bytes for each layer: keys and values, or the state of a recurrent layer."""
    get, layers = metadata.integer, metadata.n_layers
    if metadata.architecture in NO_CACHE:
        return [0] * layers
    heads = _kv_heads(metadata)
    head_size = metadata.embedding_length // max(*metadata.integers("attention.head_count"), 1, 1)
    key, value = get("attention.key_length", head_size), get("attention.value_length", head_size)
    key_swa, value_swa = get("attention.key_length_swa", key), get("attention.value_length_swa", value)
    # Multi-head latent attention keeps one compressed key a cell. Old files of such models hold it spread over heads.
    latent = get("attention.kv_lora_rank") if get("attention.key_length_mla") or max(heads, default=0) == 1 else 0
    windowed, width = _windowed(metadata)
    # Draft layers of the model itself (MTP) have no cache in the main context; shared layers use another's.
    end = layers - max(get("nextn_predict_layers"), get("attention.shared_kv_layers"))
    state = _state(metadata) * context.slots
    sizes = []
    for layer in range(layers):
        cells = context.streams * (context.window(width) if windowed[layer] else context.length)
        k, v = (key_swa, value_swa) if windowed[layer] else (key, value)
        if latent:
            size = int(cells * (latent + get("rope.dimension_count")) * types[0])
        else:
            size = int(cells * heads[layer] * (k * types[0] + v * types[1]))
        if not heads[layer] or metadata.architecture == "falcon-h1":
            size += state
        sizes.append(size if layer < end else 0)
    return sizes


def _kv_heads(metadata: Metadata) -> list[int]:
    """Key and value heads of each layer; 0 for one without attention."""
    heads = metadata.integers("attention.head_count_kv")
    if not any(heads):
        heads = metadata.integers("attention.head_count")
    default = 4 if metadata.architecture in ("qwen3next", "qwen35", "qwen35moe") else 1
    interval = metadata.integer("full_attention_interval", default) or 1
    last = len(heads) - 1
    return [n if (layer + 1) % interval == 0 or layer == last else 0 for layer, n in enumerate(heads)]


def _windowed(metadata: Metadata) -> tuple[list[bool], int]:
    """Which layers see only a window, and its width."""
    width = metadata.integer("attention.sliding_window") or (8192 if metadata.architecture == "llama4" else 0)
    pattern = metadata.fields.get(f"{metadata.architecture}.attention.sliding_window_pattern")
    if width and isinstance(pattern, tuple) and len(pattern) >= metadata.n_layers:
        return [bool(each) for each in pattern], width
    period = pattern if isinstance(pattern, int) else WINDOW_PERIOD.get(metadata.architecture, 1)
    return [bool(width) and period > 0 and layer % period < period - 1 for layer in range(metadata.n_layers)], width


def _state(metadata: Metadata) -> int:
    """The recurrent state of one layer for one sequence, f32: convolution and state space (llama-hparams.cpp)."""
    inner, state = metadata.integer("ssm.inner_size"), metadata.integer("ssm.state_size")
    taps = max(metadata.integer("ssm.conv_kernel") - 1, 0)
    return 4 * (taps * (inner + 2 * metadata.integer("ssm.group_count") * state) + state * inner)


# ---- compute buffers


def _compute(metadata: Metadata, context: _Context, *, all_outputs: bool) -> int:
    """The largest moment of one batch: five rows of the model's width and either the feed-forward network or, where
    every token has an output, the logits; and the masks. Found from measured buffers, which it meets within 0.1 %.
    """
    get = metadata.integer
    experts = get("expert_used_count") * get("expert_feed_forward_length", get("feed_forward_length"))
    dense = max(metadata.integers("feed_forward_length"), default=0)
    network = 3 * max(dense, experts + get("expert_shared_feed_forward_length"))
    logits = metadata.vocabulary if all_outputs and metadata.architecture not in NO_CACHE else 0
    rows = 5 * metadata.embedding_length + max(network, logits)
    windowed, width = _windowed(metadata)
    cells = context.length + (context.window(width) if any(windowed) else 0)
    scores = 0 if context.flash else 4 * context.length * max(metadata.integers("attention.head_count"), default=0)
    outputs = 4 * metadata.vocabulary * context.slots
    return context.batch * (4 * rows + 2 * cells + scores) + outputs
