"""PURE: what each layer of a model is: attention, with a window or without, or recurrence, and how wide its rows are.

From the header alone; what a context takes for these layers is computed in `kv`. The rules are llama.cpp's, read in
b11434; what is special about an architecture is in the tables of `architectures`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from router.memory.architectures import (
    ATTENDS_AND_RECURS,
    ATTENTION_INTERVALS,
    DEFAULT_WINDOW_TOKENS,
    ENCODERS,
    FIXED_WINDOW_TOKENS,
    FULL_LAYER_FIRST,
    INDEX_ROWS,
    ONE_BLOCK_A_LAYER,
    RECURRENT,
    RECURS_WITHOUT_HEADS,
    WINDOW_PERIODS,
    WINDOWS_IN_FILE,
)
from router.models.metadata import Metadata


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. Most layers only attend.

    `heads` are those of keys and values; each head's row has `key` and `value` elements for a token.
    `window` is the width of a sliding window in tokens; 0 if the layer attends to everything.
    `index` is how many elements of an index the layer keeps for a token.
    """

    attends: bool
    recurs: bool
    heads: int
    key: int
    value: int
    window: int = 0
    index: int = 0


def layers(metadata: Metadata) -> list[Layer]:
    get = metadata.integer
    head = metadata.embedding_length // max(*metadata.integers("attention.head_count"), 1, 1)
    key, value = get("attention.key_length", head), get("attention.value_length", head)
    # Multi-head latent attention keeps one compressed row, which is key and value at once.
    if get("attention.key_length_mla") and get("attention.value_length_mla"):
        value = 0
    # The lengths of a layer without a window, and with one.
    lengths = {
        False: (key, value),
        True: (get("attention.key_length_swa", key), value and get("attention.value_length_swa", value)),
    }
    heads, recurs = _heads(metadata), _recurrent_layers(metadata)
    windowed, width = windows(metadata)
    index = list(_index_elements(metadata))
    # The layers from here on use the keys and values of other layers.
    n_own_kv = metadata.n_layers - get("attention.shared_kv_layers")
    n_own_kv = min(n_own_kv, 20) if metadata.architecture == "gemma3n" else n_own_kv
    networks = metadata.integers("feed_forward_length") if metadata.architecture in ONE_BLOCK_A_LAYER else ()
    does_both = metadata.architecture in ATTENDS_AND_RECURS
    return [
        Layer(
            attends=n < n_own_kv and not (networks and networks[n]) and (not recurs[n] or does_both),
            recurs=recurs[n],
            heads=heads[n],
            key=lengths[windowed[n]][0],
            value=lengths[windowed[n]][1],
            window=width if windowed[n] else 0,
            index=index[n],
        )
        for n in range(metadata.n_layers)
    ]


def count_predicting(metadata: Metadata) -> int:
    """How many of the last layers only predict further tokens (MTP)."""
    count = metadata.integer("nextn_predict_layers")
    return count if count < metadata.n_layers else 0


def windows(metadata: Metadata) -> tuple[list[bool], int]:
    """Which layers have a sliding window, and its width in tokens."""
    arch, count = metadata.architecture, metadata.n_layers
    width = metadata.integer("attention.sliding_window", DEFAULT_WINDOW_TOKENS.get(arch, 0))
    if arch == "exaone4" and count - count_predicting(metadata) != 64:  # only the large one has windows
        width = 0
    if width:
        width = FIXED_WINDOW_TOKENS.get(arch, width)
    pattern = metadata.fields.get(f"{arch}.attention.sliding_window_pattern")
    if width == 0 or not (arch in WINDOW_PERIODS or arch in WINDOWS_IN_FILE):
        return [False] * count, 0
    if isinstance(pattern, tuple):
        return [bool(each) for each in pattern[:count]] + [False] * (count - len(pattern)), width
    period = pattern if isinstance(pattern, int) else WINDOW_PERIODS.get(arch, 1)
    full = 0 if arch in FULL_LAYER_FIRST else period - 1
    trunk = count - count_predicting(metadata)
    return [n < trunk and (period == 0 or n % period != full) for n in range(count)], width


def _heads(metadata: Metadata) -> tuple[int, ...]:
    """Key and value heads of each layer; 0 for a layer without attention."""
    if metadata.architecture in ENCODERS | RECURRENT:
        return (0,) * metadata.n_layers
    if f"{metadata.architecture}.attention.head_count_kv" in metadata.fields:
        return metadata.integers("attention.head_count_kv")
    return metadata.integers("attention.head_count")


def _index_elements(metadata: Metadata) -> Iterator[int]:
    """For each layer, the elements of its index for one token."""
    arch, get = metadata.architecture, metadata.integer
    rows = INDEX_ROWS.get(arch, 0)
    if arch == "hy_v4" and not get("attention.indexer.top_k"):
        rows = 0
    is_listed = f"{arch}.attention.indexer.types" in metadata.fields
    types = metadata.integers("attention.indexer.types", 1)
    recurs = _recurrent_layers(metadata)
    for n in range(metadata.n_layers):
        has_index = types[n] > 0 if is_listed else True
        if arch == "glm-dsa" and not is_listed and metadata.context_length >= 1 << 20:  # version 5.2 without its list
            has_index = n < 2 or n % 4 == 2
        if arch == "minimax-m3":  # its first layers are dense
            has_index = n >= get("leading_dense_block_count")
        values = get("attention.value_length") if arch == "minimax-m3" else 0  # its index has values too
        yield rows * get("attention.indexer.key_length") + values if rows and has_index and not recurs[n] else 0


def _recurrent_layers(metadata: Metadata) -> list[bool]:
    """Which layers have a recurrent state. Layers that only predict have none."""
    arch, count = metadata.architecture, metadata.n_layers
    trunk = count - count_predicting(metadata)
    if arch in RECURRENT | ATTENDS_AND_RECURS:
        return [n < trunk for n in range(count)]
    if arch in RECURS_WITHOUT_HEADS:
        networks = metadata.integers("feed_forward_length") if arch in ONE_BLOCK_A_LAYER else (0,) * count
        return [n < trunk and not heads and not networks[n] for n, heads in enumerate(_heads(metadata))]
    if arch in ATTENTION_INTERVALS:
        if f"{arch}.attention.recurrent_layers" in metadata.fields:
            listed = metadata.integers("attention.recurrent_layers")
            return [n < trunk and bool(each) for n, each in enumerate(listed)]
        interval = metadata.integer("full_attention_interval") or ATTENTION_INTERVALS[arch]
        return [n < trunk and (n + 1) % interval != 0 for n in range(count)]
    return [False] * count
