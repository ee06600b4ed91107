"""PURE: what a context keeps for each layer: keys and values, or the state of a recurrent layer.

A cell is room for one token of one sequence. The cache has `cells` of them in each stream; a layer with a sliding
window keeps fewer. All sizes are bytes. The rules are llama.cpp's, read in b11434. The compressed cache of deepseek4 is
not known here; for that model the engine's own measure is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.memory.architectures import ROLLBACK
from router.memory.layers import count_predicting, layers
from router.models.metadata import TENSOR_TYPES, Metadata

# What one element takes by the type of the cache, the overhead of blocks included.
BYTES_PER_ELEMENT = {name.lower(): size / elements for name, elements, size in TENSOR_TYPES.values()}
F16_BYTES = 2.0
CELL_STEP = 256  # the engine rounds contexts up to multiples of this


@dataclass(frozen=True, slots=True)
class KvCache:
    """The form of a context's cache.

    `cells` are in each of `streams`; `slots` sequences share them.
    `batch` is how many tokens are computed at a time.
    `key_bytes` and `value_bytes` are bytes an element.
    `flash` is flash attention. `full_window` keeps all cells of layers with a window too (`--swa-full`).
    `snapshots` is how many earlier states of each recurrent layer are kept, for drafting to go back to.
    """

    cells: int
    streams: int
    slots: int
    batch: int
    key_bytes: float = F16_BYTES
    value_bytes: float = F16_BYTES
    flash: bool = True
    full_window: bool = False
    snapshots: int = 0

    def window_cells(self, width: int) -> int:
        """Cells of a layer with a sliding window of this width, in each stream."""
        if self.full_window:
            return self.cells
        return padded(min(self.cells, width * (self.slots // self.streams) + self.batch))


def padded(cells: int) -> int:
    return -(-cells // CELL_STEP) * CELL_STEP


def bytes_per_layer(metadata: Metadata, cache: KvCache, *, drafts: bool = False) -> list[int]:
    """What the context keeps for each layer.

    The main context keeps nothing for layers that only predict; the context that `drafts` keeps only these.
    """
    known = layers(metadata)
    trunk = len(known) - count_predicting(metadata)
    # Without flash attention the values lie transposed, and all layers have the width of the widest.
    widest = 0 if cache.flash else max((layer.value * layer.heads for layer in known), default=0)
    state = state_bytes(metadata) * cache.slots
    state *= 1 + (cache.snapshots if metadata.architecture in ROLLBACK else 0)
    loops = metadata.integer("num_loops", 1)
    found = []
    for n, layer in enumerate(known):
        cells = cache.streams * (cache.window_cells(layer.window) if layer.window else cache.cells)
        values = max(layer.value * layer.heads, widest) if layer.value else 0
        row = layer.heads * layer.key * cache.key_bytes + values * cache.value_bytes
        size = int(cells * row) if layer.attends else 0
        size += int(cells * layer.index * cache.key_bytes) + (state if layer.recurs else 0)
        found.append(size * loops if (n >= trunk) is drafts else 0)
    return found


def state_bytes(metadata: Metadata) -> int:
    """The state of one recurrent layer for one sequence, as floats."""
    return 4 * _state_elements(metadata)


def _state_elements(metadata: Metadata) -> int:
    """The last inputs of the layer's convolution, and the state proper."""
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
    inputs = convolution_channels(metadata) * max(get("ssm.conv_kernel") - 1, 0)
    return inputs + get("ssm.state_size") * get("ssm.inner_size")


def convolution_channels(metadata: Metadata) -> int:
    """Channels of a state space model's convolution."""
    get = metadata.integer
    return get("ssm.inner_size") + 2 * get("ssm.group_count") * get("ssm.state_size")
