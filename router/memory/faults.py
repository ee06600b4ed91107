"""PURE: settings that the engine refuses for a model, as far as the model's header tells.

What is found here is an error before anything is stopped or started. The rules are those of `llama_init_from_model`
(src/llama-context.cpp of b11434): nothing is refused here that the engine would run.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.engine.flags import Arg, value_of
from router.memory.flag_values import has_flash, number
from router.memory.layers import layers
from router.models.metadata import Metadata

# Types of cache whose elements lie in blocks, and the elements of one block (ggml/src/ggml-common.h).
BLOCKS = dict.fromkeys(("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"), 32)
MAX_SLOTS = 256  # LLAMA_MAX_SEQ


def fault(args: Sequence[Arg], model: Metadata) -> str | None:
    """What the engine would refuse, and what to do about it; None if it would refuse nothing.

    `args` are all arguments of the process, those from its environment too.
    """
    is_flash = has_flash(args, model.architecture)
    values = _type_of(args, "--cache-type-v")
    attending = [layer for layer in layers(model) if layer.attends and layer.heads]
    if values in BLOCKS and not is_flash and attending:
        return f"a V cache of type {values} needs flash attention, which is off: set --flash-attn on, or another type"
    if is_flash:
        sizes = {"K": {layer.key for layer in attending}, "V": {layer.value for layer in attending}}
        for which, kind in (("K", _type_of(args, "--cache-type-k")), ("V", values)):
            block = BLOCKS.get(kind, 1)
            if wrong := next((size for size in sorted(sizes[which]) if size % block), None):
                return (
                    f"a {which} cache of type {kind} has blocks of {block} elements, which do not divide this model's "
                    f"heads of {wrong}: use f16, bf16 or f32"
                )
    if (slots := number(args, "--parallel")) > MAX_SLOTS:
        return f"the engine has at most {MAX_SLOTS} slots, not {slots} (--parallel)"
    return None


def _type_of(args: Sequence[Arg], flag: str) -> str:
    return value_of(args, flag) or "f16"
