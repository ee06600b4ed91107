"""PURE: how models embed and rank: with which task, in which batches, and in how long a context.

llama-server computes an input of an embedding in one physical batch, and refuses one that is longer. That batch has
512 tokens by default, while the context may hold thousands. So the batch follows the context, unless the user has set
it. Models that pool the last token and keep a cache are the exception: their inputs go over any number of batches
(`can_split` in tools/server/server-context.cpp of b11434).

`fitting` counts such a batch, and the child gets it as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.engine.flags import Arg, switch_of, value_of
from router.memory import architectures
from router.memory.flag_values import DEFAULT_MICRO_BATCH_TOKENS, kv_cache, number, slot_tokens
from router.models.metadata import Metadata

# If the user sets no context, a longer one than this is not chosen, because the buffers of such a batch grow with it.
# Most architectures also compute logits for each token, although nobody asks for them: with a vocabulary of 152,000
# that is 5 GiB for 8,192 tokens.
MAX_AUTOMATIC_TOKENS = 8192
MAX_AUTOMATIC_TOKENS_WITH_LOGITS = 2048


def task_words(args: Sequence[Arg], metadata: Metadata) -> list[str]:
    """The switch without which llama-server refuses to do what this model is for. Empty if the user has set one, and
    for a model that writes text."""
    is_set = any(switch_of(args, flag) is not None for flag in ("--embedding", "--rerank"))
    if is_set or metadata.pooling in (None, "none"):
        return []
    return ["--rerank" if metadata.pooling == "rank" else "--embedding"]


def follows_context(args: Sequence[Arg], metadata: Metadata) -> bool:
    """Whether the physical batch is as long as the context of one slot."""
    if value_of(args, "--ubatch-size") is not None:
        return False
    embeds = any(switch_of(args, flag) for flag in ("--embedding", "--rerank"))
    if not embeds and metadata.pooling in (None, "none"):
        return False
    pooling = "rank" if switch_of(args, "--rerank") else value_of(args, "--pooling") or metadata.pooling
    return pooling != "last" or metadata.architecture in architectures.ENCODERS


def wanted_batch(args: Sequence[Arg], metadata: Metadata) -> int:
    """The physical batch for these arguments, in tokens: as long as the context of one slot, if it follows that."""
    if not follows_context(args, metadata):
        return DEFAULT_MICRO_BATCH_TOKENS
    longest = slot_tokens(args, metadata, kv_cache(args, metadata))
    return max(min(longest, number(args, "--batch-size") or longest), DEFAULT_MICRO_BATCH_TOKENS)


def batch_words(args: Sequence[Arg], batch: int) -> list[str]:
    """The arguments for a physical batch of `batch` tokens; empty for the engine's own batch."""
    if batch <= DEFAULT_MICRO_BATCH_TOKENS:
        return []
    # The logical batch is never shorter than the physical one.
    logical = [] if value_of(args, "--batch-size") is not None else ["--batch-size", str(batch)]
    return [*logical, "--ubatch-size", str(batch)]


def longest_automatic_context(args: Sequence[Arg], metadata: Metadata) -> int | None:
    """The longest context of one slot that the router chooses by itself; None for no limit."""
    if not follows_context(args, metadata):
        return None
    has_logits = metadata.architecture not in architectures.EMBEDDERS | architectures.NO_LOGITS_WHEN_EMBEDDING
    longest = MAX_AUTOMATIC_TOKENS_WITH_LOGITS if has_logits else MAX_AUTOMATIC_TOKENS
    return longest if metadata.context_length > longest else None
