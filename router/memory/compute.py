"""The buffers in which a batch is computed.

An engine reserves them once, for the worst moment of a full batch. Which tensors live at the same time is a matter of
its allocator, so these rows were found from what the server of b11434 reports for two dozen architectures (`python -m
tests.benchmarks.accuracy`); they are floats for each token. All sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.memory import kv
from router.memory.kv import Cache
from router.models.metadata import Metadata

LINEAR = frozenset(("qwen3next", "qwen35", "qwen35moe", "qwen4exp"))  # gated delta net
RWKV = frozenset(("rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"))
# Attention and network from the same input.
PARALLEL = frozenset(("command-r", "cohere2", "cohere2moe", "falcon", "gptj", "gptneox", "phi2", "plamo"))
HIDDEN = frozenset(("lfm2", "lfm2moe"))  # compute no logits when they embed


@dataclass(frozen=True, slots=True)
class Buffers:
    """`device` is where the layers are, `inputs` (contained in it) what the host keeps too when that is a GPU."""

    device: int
    inputs: int


def buffers(metadata: Metadata, cache: Cache, *, all_outputs: bool = False) -> Buffers:
    """`all_outputs`: each token of a batch has logits, not only the last one of each slot."""
    width = metadata.embedding_length
    known = kv.layers(metadata)
    mask = _mask(metadata, cache) if any(layer.attends for layer in known) else 0
    moments = [cache.batch * 4 * ((5 + (metadata.architecture in PARALLEL)) * width + _network(metadata))]
    if all_outputs and metadata.architecture not in kv.EMBEDDERS:
        moments.append(cache.batch * 4 * (5 * width + metadata.vocabulary))
    if any(layer.attends and (layer.heads or metadata.architecture in kv.ENCODERS) for layer in known):
        moments.append(_attention(metadata, cache))
    if any(layer.recurs for layer in known):
        moments.append(_recurrence(metadata, cache))
    return Buffers(device=max(moments) + mask, inputs=cache.batch * 4 * width + mask)


def outputs(metadata: Metadata, cache: Cache) -> int:
    """What the host keeps for results: logits for one token of each slot."""
    return 4 * metadata.vocabulary * cache.slots


def projector(metadata: Metadata, *, flash: bool) -> int:
    """What the projector needs for one picture of the size that it was trained with; the file says it for pictures, not
    for sound, where a quarter of the weights is a guess."""
    get = metadata.integer
    patch, width = get("vision.patch_size"), get("vision.embedding_length")
    if not patch or not width:
        return metadata.weights_bytes // 4
    patches = (get("vision.image_size") // patch) ** 2
    rows = max(5 * width, 3 * width + get("vision.feed_forward_length"))
    scores = 0 if flash else 4 * width + patches * get("vision.attention.head_count")
    return 4 * patches * max(rows, scores)


def _mask(metadata: Metadata, cache: Cache) -> int:
    """Which cells each token sees: once for full attention and once for windows."""
    if metadata.architecture in kv.ENCODERS:
        cells = cache.batch
    else:
        windowed, width = kv.windows(metadata)
        cells = cache.length + (cache.window(width) if any(windowed) else 0)
    return cache.batch * cells * (2 if cache.flash else 4)


def _network(metadata: Metadata) -> int:
    """The feed-forward network: gate, up and their product; of experts, all that a token uses."""
    get = metadata.integer
    inner = max(metadata.integers("feed_forward_length"), default=0)
    names = {tensor.name.split(".", 2)[-1]: tensor for tensor in metadata.tensors if tensor.name.startswith("blk.")}
    up = names.get("ffn_up.weight")
    gated = "ffn_gate.weight" in names or (up is not None and up.shape[-1:] > (inner,))  # or both in one tensor
    dense = (3 if gated else 1) * inner if up else 0
    if not get("expert_used_count"):
        return dense
    used = max(metadata.integers("expert_used_count"))
    experts = used * max(*metadata.integers("expert_feed_forward_length", inner), 0)
    # What the experts make of it goes where gate and up were, if it fits there.
    result = used * metadata.embedding_length
    return max(dense, 3 * experts + (result if result > 2 * experts else 0))


def _attention(metadata: Metadata, cache: Cache) -> int:
    get, width = metadata.integer, metadata.embedding_length
    heads = max(metadata.integers("attention.head_count"), default=0)
    known = kv.layers(metadata)
    query = max(layer.key for layer in known) * heads
    keys = max(layer.heads * layer.key for layer in known)
    values = max(layer.heads * layer.value for layer in known)
    turned, latent = get("rope.dimension_count"), get("attention.kv_lora_rank")
    if head := get("attention.key_length_mla"):
        rows = 5 * width + heads * (head + 2 * (latent + turned))
    elif cache.flash and latent:
        rows = 4 * width + heads * (4 * get("attention.key_length") + get("attention.value_length"))
    elif cache.flash:
        rows = 3 * width + 2 * query + max(query, keys + values)
    else:
        rows = 3 * width + 3 * query + keys + values
    cells = cache.batch if metadata.architecture in kv.ENCODERS else cache.length
    scores = 0.0 if cache.flash else cells * heads
    if any(layer.index for layer in known):
        rows += get("attention.indexer.head_count") * get("attention.indexer.key_length")
        scores += 1.5 * cells if cache.flash else 0
    return int(cache.batch * 4 * (rows + scores))


def _recurrence(metadata: Metadata, cache: Cache) -> int:
    get, width, arch = metadata.integer, metadata.embedding_length, metadata.architecture
    inner, channels = get("ssm.inner_size"), kv.convolution(metadata)
    state = kv.row(metadata) * cache.slots
    if arch in RWKV:
        return cache.batch * 4 * 20 * width + state
    rows = (6 if arch in kv.BOTH else 5) * width + inner + 3 * channels
    if arch in LINEAR:
        early = cache.batch * 4 * rows + state
        late = cache.batch * 4 * (5 * width + channels + 3 * inner) + 2 * state
        return max(early, late)
    steps = get("ssm.time_step_rank") if get("ssm.group_count") else 0  # the second kind of Mamba projects them too
    return cache.batch * 4 * (rows + inner + steps) + state
