"""PURE: the buffers in which a batch is computed.

The engine reserves them once, for the moment of a full batch that takes most. Which tensors live at the same moment is
decided by its allocator. So the rows below, in floats for each token, were found by measuring: they fit what the server
of b11434 reports for two dozen architectures (`python -m tests.benchmarks.accuracy`). All sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.memory import architectures, kv
from router.memory.kv import KvCache
from router.memory.layers import layers, windows
from router.models.metadata import Metadata

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Buffers:
    """What the device with the layers needs.

    `inputs` is the part of `device` that is needed in RAM as well if that device is a GPU.
    """

    device: int
    inputs: int


def buffers(metadata: Metadata, cache: KvCache, *, all_outputs: bool = False) -> Buffers:
    """The buffers of one device.

    With `all_outputs` each token of a batch has logits, not only the last one of each slot.
    """
    width = metadata.embedding_length
    known = layers(metadata)
    mask = _mask(metadata, cache) if any(layer.attends for layer in known) else 0
    rows = 6 if metadata.architecture in architectures.PARALLEL else 5
    stacked = _stacked_rows(metadata)
    rows += architectures.SEVERAL_VERSIONS.get(metadata.architecture, 0) + stacked
    # The largest of these moments decides; most models have two or three of them.
    moments = [cache.batch * FLOAT_BYTES * (rows * width + _network(metadata))]
    if all_outputs and metadata.architecture not in architectures.EMBEDDERS:
        late = 5 + (stacked + 6 if stacked else 0)
        moments.append(cache.batch * FLOAT_BYTES * (late * width + metadata.vocabulary))
    if any(layer.attends and (layer.heads or metadata.architecture in architectures.ENCODERS) for layer in known):
        moments.append(_attention(metadata, cache))
    if any(layer.recurs for layer in known):
        moments.append(_recurrence(metadata, cache))
    return Buffers(device=max(moments) + mask, inputs=cache.batch * FLOAT_BYTES * width + mask)


def _stacked_rows(metadata: Metadata) -> int:
    """Rows of the model's width for inputs of further layers: as they may come with a picture, and for words.

    They live until the last of these layers (`build_inp_embd` in src/llama-graph.cpp).
    """
    stacked = min(metadata.integer("n_deepstack_layers"), architectures.MAX_STACKED)
    return 2 * (stacked + 1) + 2 if stacked else 0


def output_bytes(metadata: Metadata, cache: KvCache) -> int:
    """What RAM keeps for results: logits for one token of each slot."""
    return FLOAT_BYTES * metadata.vocabulary * cache.slots


def _mask(metadata: Metadata, cache: KvCache) -> int:
    """The mask says which cells each token sees: one for full attention, and one for windows."""
    if metadata.architecture in architectures.ENCODERS:
        cells = cache.batch * (2 if _has_windows(metadata) else 1)
    else:
        windowed, width = windows(metadata)
        cells = cache.cells + (cache.window_cells(width) if any(windowed) else 0)
    return cache.batch * cells * (2 if cache.flash else FLOAT_BYTES)


def _has_windows(metadata: Metadata) -> bool:
    """Whether some layers of an encoder see a window only, and need a mask of their own."""
    has_two = metadata.architecture in architectures.ENCODERS_WITH_WINDOWS
    return has_two and metadata.integer("attention.sliding_window") > 0


def _network(metadata: Metadata) -> int:
    """Floats for each token in the feed-forward network: gate, up and their product, for all experts that it uses."""
    inner = max(metadata.integers("feed_forward_length"), default=0)
    names = {tensor.name.split(".", 2)[-1]: tensor for tensor in metadata.tensors if tensor.name.startswith("blk.")}
    up = names.get("ffn_up.weight")
    # The gate has a tensor of its own, or lies in one tensor with up.
    is_gated = "ffn_gate.weight" in names or (up is not None and up.shape[-1:] > (inner,))
    dense = (3 if is_gated else 1) * inner if up else 0
    used = max(metadata.integers("expert_used_count"), default=0)
    if not used:
        return dense
    experts = used * max(*metadata.integers("expert_feed_forward_length", inner), 0)
    # The experts' results go where gate and up were, if they fit there.
    result = used * metadata.embedding_length
    return max(dense, 3 * experts + (result if result > 2 * experts else 0))


def _attention(metadata: Metadata, cache: KvCache) -> int:
    """The moment of attention: queries, keys, values, and without flash attention the scores."""
    get, width = metadata.integer, metadata.embedding_length
    heads = max(metadata.integers("attention.head_count"), default=0)
    known = layers(metadata)
    query = max(layer.key for layer in known) * heads
    keys = max(layer.heads * layer.key for layer in known)
    values = max(layer.heads * layer.value for layer in known)
    rotated, latent = get("rope.dimension_count"), get("attention.kv_lora_rank")
    if head := get("attention.key_length_mla"):
        rows = 5 * width + heads * (head + 2 * (latent + rotated))
    elif cache.flash and latent:
        rows = 4 * width + heads * (4 * get("attention.key_length") + get("attention.value_length"))
    elif cache.flash:
        rows = 3 * width + 2 * query + max(query, keys + values)
    else:
        rows = 3 * width + 3 * query + keys + values
    if stacked := _stacked_rows(metadata):
        rows += (stacked + (0 if cache.flash else 5)) * width
    rows += architectures.SEVERAL_VERSIONS.get(metadata.architecture, 0) * width
    is_encoder = metadata.architecture in architectures.ENCODERS
    if is_encoder and not cache.flash and any(tensor.name.endswith("attn_qkv.weight") for tensor in metadata.tensors):
        rows += 3 * width  # they are taken apart
    cells = cache.batch if is_encoder else cache.cells
    scores = 0.0 if cache.flash else cells * heads
    if any(layer.index for layer in known):
        rows += get("attention.indexer.head_count") * get("attention.indexer.key_length")
        scores += 1.5 * cells if cache.flash else 0
    return int(cache.batch * FLOAT_BYTES * (rows + scores))


def _recurrence(metadata: Metadata, cache: KvCache) -> int:
    """The moment of a recurrent layer: its inputs, and the states of all slots."""
    get, width, arch = metadata.integer, metadata.embedding_length, metadata.architecture
    inner, channels = get("ssm.inner_size"), kv.convolution_channels(metadata)
    state = kv.state_bytes(metadata) * cache.slots
    if arch in architectures.RWKV:
        return cache.batch * FLOAT_BYTES * 20 * width + state
    rows = (6 if arch in architectures.ATTENDS_AND_RECURS else 5) * width + inner + 3 * channels
    if arch in architectures.LINEAR_ATTENTION:
        early = cache.batch * FLOAT_BYTES * rows + state
        late = cache.batch * FLOAT_BYTES * (5 * width + channels + 3 * inner) + 2 * state
        return max(early, late)
    steps = get("ssm.time_step_rank") if get("ssm.group_count") else 0  # Mamba 2 projects them too
    return cache.batch * FLOAT_BYTES * (rows + inner + steps) + state
