"""PURE: the header as the engine sees it, with what `--override-kv` puts over it.

A context length, a number of experts or of heads that is overridden changes what a model takes. The rules are those of
llama.cpp b11434 (common/common.cpp, src/llama-model-loader.cpp): a whole number counts where a whole number is read; it
does not replace a list with a value for each layer. What the engine refuses changes nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import MappingProxyType

from router.engine.flags import Arg, values_of
from router.models.header import MAX_LAYERS
from router.models.metadata import ArrayInfo, Metadata, Value

MAX_KEY_CHARACTERS = 127
MAX_NUMBER = (1 << 32) - 1  # the engine reads them as 32 bits
# These are read for each layer, and only if the file has them at all.
PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length", "expert_feed_forward_length")


def overridden(args: Sequence[Arg], metadata: Metadata) -> Metadata:
    """The same header if no argument changes it."""
    found = {key: value for key, value in _overrides(args) if _counts(metadata, key, value)}
    if not found:
        return metadata
    return replace(metadata, fields=MappingProxyType({**metadata.fields, **found}))


def _overrides(args: Sequence[Arg]) -> Iterator[tuple[str, Value]]:
    """Key and value of each. Of several for one key the first counts, so it comes last."""
    items = [item for text in values_of(args, "--override-kv") for item in text.split(",")]
    for item in reversed(items):
        key, _, typed = item.partition("=")
        kind, _, text = typed.partition(":")
        if not key or len(key) > MAX_KEY_CHARACTERS:
            continue
        if kind == "int" and text.isdecimal() and len(text) <= 10 and int(text) <= MAX_NUMBER:
            yield key, int(text)
        elif kind == "bool" and text in ("true", "false"):
            yield key, text == "true"


def _counts(metadata: Metadata, key: str, value: Value) -> bool:
    """Whether the engine takes this value."""
    present = metadata.fields.get(key)
    arch, _, name = key.partition(".")
    if arch != metadata.architecture or isinstance(present, tuple | ArrayInfo):
        return False
    if name == "block_count" and (not isinstance(value, int) or value > MAX_LAYERS):
        return False
    if present is None:
        return name not in PER_LAYER
    return isinstance(present, bool) == isinstance(value, bool) and isinstance(present, int)
