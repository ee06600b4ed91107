"""PURE: what flags of the engine mean in numbers: contexts and slots, layers on GPUs, kinds of drafting.

A value that the engine will refuse counts as its default here: the model will not be loaded, and the engine's own
message is the better one. The defaults are those of llama-server, b11434.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf

from router.engine.flags import Arg, boolean, switch_of, value_of
from router.memory import kv
from router.memory.architectures import WITHOUT_FLASH
from router.memory.kv import KvCache
from router.models.metadata import Metadata

DEFAULT_CONTEXT_TOKENS = 4096  # of a model whose header names none
DEFAULT_BATCH_TOKENS, DEFAULT_MICRO_BATCH_TOKENS = 2048, 512
DEFAULT_SLOTS = 4
DEFAULT_SNAPSHOTS = 3
MAX_DIGITS = 10  # those of 2**31 - 1; the engine refuses more
# Kinds of drafting that go back to an earlier state (common/common.h, need_n_rs_seq).
ROLLBACK_DRAFTERS = frozenset(("draft-mtp", "draft-eagle3", "draft-dflash", "draft-dspark"))
# Devices that the router knows and that a visibility mask can pick.
MASKABLE_DEVICE = re.compile(r"(?:CUDA|ROCm)\d+")


def kv_cache(args: Sequence[Arg], metadata: Metadata) -> KvCache:
    """The cache of the main context."""
    slots, is_unified = slots_of(args)
    streams = 1 if is_unified else slots
    n_ctx = number(args, "--ctx-size") or slots * number(args, "--kv-unified-per-slot")
    if not n_ctx:  # the trained context; `--fit` gives it to every stream (common/fit.cpp)
        fits = boolean(value_of(args, "--fit") or "") is not False
        n_ctx = (metadata.context_length or DEFAULT_CONTEXT_TOKENS) * (streams if fits else 1)
    batch = number(args, "--batch-size") or DEFAULT_BATCH_TOKENS
    micro_batch = number(args, "--ubatch-size") or DEFAULT_MICRO_BATCH_TOKENS
    goes_back = not ROLLBACK_DRAFTERS.isdisjoint(drafters(args))
    return KvCache(
        cells=kv.padded(kv.padded(n_ctx) // streams),
        streams=streams,
        slots=slots,
        batch=min(n_ctx, batch, micro_batch),
        key_bytes=cache_type_bytes(args, "--cache-type-k"),
        value_bytes=cache_type_bytes(args, "--cache-type-v"),
        flash=has_flash(args, metadata.architecture),
        full_window=switch_of(args, "--swa-full") is True,
        snapshots=number(args, "--spec-draft-n-max") or DEFAULT_SNAPSHOTS if goes_back else 0,
    )


def has_flash(args: Sequence[Arg], architecture: str = "") -> bool:
    """Whether flash attention is on. The engine leaves it off for some architectures."""
    return boolean(value_of(args, "--flash-attn") or "") is not False and architecture not in WITHOUT_FLASH


def cache_type_bytes(args: Sequence[Arg], name: str) -> float:
    """Bytes of one element of a cache, by the flag that names its type."""
    return kv.BYTES_PER_ELEMENT.get(value_of(args, name) or "", kv.F16_BYTES)


def slots_of(args: Sequence[Arg]) -> tuple[int, bool]:
    """How many slots there are, and whether they share one KV cache (tools/server/server.cpp)."""
    slots = number(args, "--parallel")
    return (slots, switch_of(args, "--kv-unified") is True) if slots else (DEFAULT_SLOTS, True)


def slot_tokens(args: Sequence[Arg], metadata: Metadata, cache: KvCache) -> int:
    """The context that one request can have (`n_ctx_slot` in tools/server/server-context.cpp)."""
    limits = (cache.cells, number(args, "--kv-unified-per-slot"), metadata.context_length)
    return min(limit for limit in limits if limit)


def drafters(args: Sequence[Arg]) -> list[str]:
    """The kinds of drafting that are on."""
    return (value_of(args, "--spec-type") or "").split(",")


def gpu_layers(args: Sequence[Arg], name: str, metadata: Metadata) -> int:
    """How many layers go to GPUs by the flag `name`, counted from the last layer down. The output counts as one."""
    value, every = value_of(args, name), metadata.n_layers + 1
    return min(int(value), every) if value and value.isdecimal() and len(value) <= MAX_DIGITS else every


def gpu_names(args: Sequence[Arg]) -> tuple[str, ...]:
    """The GPUs to which `--device` restricts a model, as far as a visibility mask can."""
    return tuple(filter(MASKABLE_DEVICE.fullmatch, (value_of(args, "--device") or "").split(",")))


def tensor_split(args: Sequence[Arg], gpus: int) -> tuple[float, ...]:
    """The shares by which the user divides the layers over several GPUs; empty if the division is left to us."""
    words = re.split("[,/]+", value_of(args, "--tensor-split") or "")[:gpus]
    try:
        shares = tuple(float(word) for word in words)
    except ValueError:
        return ()
    is_by_layers = value_of(args, "--split-mode") in (None, "layer")
    return shares if is_by_layers and shares and min(shares) >= 0 < sum(shares) < inf else ()


def is_mapped(args: Sequence[Arg]) -> bool:
    """Whether weights in RAM are the file, mapped into memory. Older builds have a switch for it."""
    return switch_of(args, "--mmap") is not False and value_of(args, "--load-mode") in (None, "mmap", "mlock")


def embeds(args: Sequence[Arg]) -> bool:
    """Whether the server gives embeddings or ranks, not text."""
    pooling = value_of(args, "--pooling")
    return bool(switch_of(args, "--embedding") or switch_of(args, "--rerank") or (pooling and pooling != "none"))


def number(args: Sequence[Arg], name: str) -> int:
    """A count by its flag; 0 for automatic, for none, and for what is no count."""
    value = value_of(args, name)
    return int(value) if value and value.isdecimal() and len(value) <= MAX_DIGITS else 0
