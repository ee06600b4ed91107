"""What a context keeps for each layer: keys and values, or the state of a recurrent layer.

The rules are llama.cpp's, read in b11434: `create_memory` in llama-model.cpp, llama-hparams.cpp, llama-kv-cache*.cpp
and, for the tables of architectures, src/models. All sizes are bytes. Not known here is the compressed cache of
deepseek4; the engine's own measure is for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from router.models.metadata import TENSOR_TYPES, Metadata

# Bytes that one element takes, block overhead included.
BYTES = {name.lower(): size / elements for name, elements, size in TENSOR_TYPES.values()}


@dataclass(frozen=True, slots=True)
class Cache:
    """`length` cells in each of `streams`, for `slots` sequences together, filled `batch` tokens at a time. `key` and
    `value` are bytes an element. Drafting keeps `snapshots` more of each recurrent state, to go back to.
    """

    length: int
    streams: int
    slots: int
    batch: int
    key: float = 2.0
    value: float = 2.0
    flash: bool = True
    full_window: bool = False
    snapshots: int = 0

    def window(self, width: int) -> int:
        """Cells of a layer with a sliding window, in each stream."""
        if self.full_window:
            return self.length
        return padded(min(self.length, width * (self.slots // self.streams) + self.batch))


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of most models only attends. `window` is 0 where it attends to everything."""

    attends: bool
    recurs: bool
    heads: int
    key: int
    value: int
    window: int = 0
    index: int = 0


def padded(cells: int) -> int:
    return -(-cells // 256) * 256


def sizes(metadata: Metadata, cache: Cache, *, drafts: bool = False) -> list[int]:
    """Bytes for each layer; those of layers that predict further tokens only where the context `drafts`."""
    known = layers(metadata)
    trunk = len(known) - predicting(metadata)
    # Without flash attention the values lie transposed, and all layers have the width of the widest.
    widest = 0 if cache.flash else max((layer.value * layer.heads for layer in known), default=0)
    state = 4 * _state(metadata) * cache.slots
    state *= 1 + (cache.snapshots if metadata.architecture in ROLLBACK else 0)
    loops = metadata.integer("num_loops", 1)
    found = []
    for n, layer in enumerate(known):
        cells = cache.streams * (cache.window(layer.window) if layer.window else cache.length)
        values = max(layer.value * layer.heads, widest) if layer.value else 0
        size = int(cells * (layer.heads * layer.key * cache.key + values * cache.value)) if layer.attends else 0
        size += int(cells * layer.index * cache.key) + (state if layer.recurs else 0)
        found.append(size * loops if (n >= trunk) is drafts else 0)
    return found


def predicting(metadata: Metadata) -> int:
    """How many of the last layers only predict further tokens (MTP)."""
    count = metadata.integer("nextn_predict_layers")
    return count if count < metadata.n_layers else 0


def layers(metadata: Metadata) -> list[Layer]:
    """What each layer keeps."""
    get = metadata.integer
    head = metadata.embedding_length // max(*metadata.integers("attention.head_count"), 1, 1)
    key, value = get("attention.key_length", head), get("attention.value_length", head)
    # Multi-head latent attention keeps one compressed row, which is key and value at once.
    if get("attention.key_length_mla") and get("attention.value_length_mla"):
        value = 0
    wide = {
        False: (key, value),
        True: (get("attention.key_length_swa", key), value and get("attention.value_length_swa", value)),
    }
    heads, recurs = _heads(metadata), _recurrent(metadata)
    windowed, width = windows(metadata)
    indexed = list(_indexed(metadata))
    end = metadata.n_layers - get("attention.shared_kv_layers")  # the layers behind use another's keys and values
    end = min(end, 20) if metadata.architecture == "gemma3n" else end
    plain = metadata.integers("feed_forward_length") if metadata.architecture in ONE_BLOCK else ()
    return [
        Layer(
            attends=n < end and not (plain and plain[n]) and (not recurs[n] or metadata.architecture in BOTH),
            recurs=recurs[n],
            heads=heads[n],
            key=wide[windowed[n]][0],
            value=wide[windowed[n]][1],
            window=width if windowed[n] else 0,
            index=indexed[n],
        )
        for n in range(metadata.n_layers)
    ]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ---- attention

# These attend over the whole batch at once and keep nothing; the first of them have no words to put out either.
EMBEDDERS = _names("""
    bert jina-bert-v2 jina-bert-v3 nomic-bert nomic-bert-moe neo-bert eurobert modern-bert gemma-embedding
    wavtokenizer-dec clef
""")
ENCODERS = EMBEDDERS | _names("dream llada llada-moe rnd1")

# Every n-th layer attends to everything and the others to a window, unless the file tells; 0: all to a window.
PERIODS = {"lfm2": 0, "gemma2": 2, "gpt-oss": 2, "gemma3n": 5, "gemma3": 6, "plamo3": 8} | dict.fromkeys(
    _names("""
        cohere2 cohere2moe exaone4 exaone-moe llama4 olmo2 smallthinker afmoe mellum laguna muse-glimmer
    """),
    4,
)
FULL_FIRST = _names("cohere2moe smallthinker laguna")  # of each period, not last
LISTED = _names("gemma4 gemma4-assistant granite_swa maple mimo2 spark2_5 step35 dflash dots3note")  # only by the file
WIDTHS = {"gemma2": 4096, "exaone4": 4096, "llama4": 8192}  # where the file has none


def windows(metadata: Metadata) -> tuple[list[bool], int]:
    """Which layers see only a window, and its width."""
    arch, count = metadata.architecture, metadata.n_layers
    width = metadata.integer("attention.sliding_window", WIDTHS.get(arch, 0))
    if arch == "exaone4" and count - predicting(metadata) != 64:  # the small one has none
        width = 0
    if width and arch in ("llama4", "smallthinker"):  # whatever the file says
        width = {"llama4": 8192, "smallthinker": 4096}[arch]
    pattern = metadata.fields.get(f"{arch}.attention.sliding_window_pattern")
    if width == 0 or not (arch in PERIODS or arch in LISTED):
        return [False] * count, 0
    if isinstance(pattern, tuple):
        return [bool(each) for each in pattern[:count]] + [False] * (count - len(pattern)), width
    period = pattern if isinstance(pattern, int) else PERIODS.get(arch, 1)
    full = 0 if arch in FULL_FIRST else period - 1
    trunk = count - predicting(metadata)
    return [n < trunk and (period == 0 or n % period != full) for n in range(count)], width


def _heads(metadata: Metadata) -> tuple[int, ...]:
    """Key and value heads of each layer; 0 for one without attention."""
    if metadata.architecture in ENCODERS | RECURRENT:
        return (0,) * metadata.n_layers
    if f"{metadata.architecture}.attention.head_count_kv" in metadata.fields:
        return metadata.integers("attention.head_count_kv")
    return metadata.integers("attention.head_count")


# Models that choose what to attend to by an index: one row a cell, of one head or several side by side.
INDEX_ROWS = {"deepseek32": 1, "glm-dsa": 1, "hy_v4": 1, "dots3note": 1, "minimax-m3": 1, "qwen4exp": 2, "glm5-next": 3}


def _indexed(metadata: Metadata) -> Iterator[int]:
    """Elements of the index that each layer keeps for a cell."""
    arch, get = metadata.architecture, metadata.integer
    rows = INDEX_ROWS.get(arch, 0)
    if arch == "hy_v4" and not get("attention.indexer.top_k"):
        rows = 0
    listed = f"{arch}.attention.indexer.types" in metadata.fields
    chosen = metadata.integers("attention.indexer.types", 1)
    recurs = _recurrent(metadata)
    for n in range(metadata.n_layers):
        has = chosen[n] > 0 if listed else True
        if arch == "glm-dsa" and not listed and metadata.context_length >= 1 << 20:  # 5.2 without its list
            has = n < 2 or n % 4 == 2
        if arch == "minimax-m3":  # its first layers are dense, and the index has values too
            has = n >= get("leading_dense_block_count")
        extra = get("attention.value_length") if arch == "minimax-m3" else 0
        yield rows * get("attention.indexer.key_length") + extra if rows and has and not recurs[n] else 0


# ---- recurrence

RECURRENT = _names("mamba mamba2 rwkv6 rwkv6qwen2 rwkv7 arwkv7")
BOTH = _names("falcon-h1")  # each layer attends and recurs
# A layer without key and value heads is recurrent.
HEADLESS = _names("""
    jamba granitehybrid plamo2 lfm2 lfm2moe kimi-linear kimi-k3 bailingmoe3 glm5-next nemotron_h nemotron_h_moe
""")
ONE_BLOCK = _names("nemotron_h nemotron_h_moe")  # a layer is attention, recurrence or a feed-forward network
# Every n-th layer attends and the others recur, unless the file tells.
INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
# Can go back to an earlier state (llm_arch_supports_rs_rollback).
ROLLBACK = _names("""
    kimi-k3 qwen35 qwen35moe qwen4exp deepseek4 glm5-next nemotron_h nemotron_h_moe lfm2 lfm2moe bailingmoe3
""")


def _recurrent(metadata: Metadata) -> list[bool]:
    arch, count = metadata.architecture, metadata.n_layers
    trunk = count - predicting(metadata)
    if arch in RECURRENT | BOTH:
        return [n < trunk for n in range(count)]
    if arch in HEADLESS:
        networks = metadata.integers("feed_forward_length") if arch in ONE_BLOCK else (0,) * count
        return [n < trunk and not heads and not networks[n] for n, heads in enumerate(_heads(metadata))]
    if arch in INTERVALS:
        if f"{arch}.attention.recurrent_layers" in metadata.fields:
            return [n < trunk and bool(each) for n, each in enumerate(metadata.integers("attention.recurrent_layers"))]
        interval = metadata.integer("full_attention_interval") or INTERVALS[arch]
        return [n < trunk and (n + 1) % interval != 0 for n in range(count)]
    return [False] * count


def _state(metadata: Metadata) -> int:
    """Elements of the state of one layer for one sequence: the last inputs of its convolution, and the state proper."""
    get, width = metadata.integer, metadata.embedding_length
    heads = next(iter(metadata.integers("attention.head_count")), 0)
    if head := get("wkv.head_size"):
        return width * (get("token_shift_count", 2) + head)
    if taps := get("shortconv.l_cache"):
        return width * (taps - 1)
    if head := get("kda.head_dim"):
        return heads * head * (3 * (get("ssm.conv_kernel", 4) - 1) + head)
    if metadata.architecture == "minimax-01":
        return heads * get("attention.key_length", width // max(heads, 1)) ** 2
    return convolution(metadata) * max(get("ssm.conv_kernel") - 1, 0) + get("ssm.state_size") * get("ssm.inner_size")


def convolution(metadata: Metadata) -> int:
    """Channels of a state space model's convolution."""
    return metadata.integer("ssm.inner_size") + 2 * metadata.integer("ssm.group_count") * metadata.integer(
        "ssm.state_size"
    )


def row(metadata: Metadata) -> int:
    """Bytes of one sequence's state in one layer."""
    return 4 * _state(metadata)
