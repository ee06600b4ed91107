"""PURE: where the engine puts each tensor: in RAM, or on GPUs layer by layer.

The rules are those of llama.cpp b11434 (llama-model.cpp, llama-model-loader.cpp, common/arg.cpp). All sizes are bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from router.engine.flags import Arg
from router.memory.architectures import NO_OUTPUT_WEIGHTS
from router.memory.layers import count_predicting
from router.models.metadata import Metadata

# The input reads these row by row; they stay in RAM unless a flag moves them.
INPUT_TENSORS = ("token_embd.", "position_embd.", "token_types.", "per_layer_token_embd.")
INPUT_LAYER = -1
# Patterns of tensor names: the networks of experts, and those of all tokens.
EXPERTS, DENSE = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps", r"\.ffn_(up|down|gate)\."
MAX_CPU_LAYERS = 512  # no model has more layers


@dataclass(frozen=True, slots=True)
class Weights:
    """`host` stays in RAM. `layers` go to GPUs; the output is the last of them."""

    host: int
    layers: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.host + sum(self.layers)


def place_weights(args: Sequence[Arg], metadata: Metadata, first: int, *, predicts: bool = False) -> Weights:
    """The weights, if the layers from number `first` on go to GPUs. The output counts as the layer after the last.

    Layers that only predict further tokens are loaded only if the model `predicts`.
    """
    count = metadata.n_layers
    loaded = count if predicts else count - count_predicting(metadata)
    rules = _buffer_rules(args)
    host, layers = 0, [0] * (count + 1)

    def add(name: str, nbytes: int, layer: int) -> None:
        nonlocal host
        is_in_ram = next((buffer == "CPU" for pattern, buffer in rules if pattern.search(name)), layer < first)
        if is_in_ram:
            host += nbytes
        else:
            layers[max(layer, 0)] += nbytes

    for tensor in metadata.tensors:
        layer = _layer(tensor.name, count)
        if layer < loaded or layer == count:
            add(tensor.name, tensor.nbytes, layer)
    if first <= count and not any(tensor.name == "output.weight" for tensor in metadata.tensors):
        for tensor in metadata.tensors:
            if tensor.name == "token_embd.weight" and metadata.architecture not in NO_OUTPUT_WEIGHTS:
                add(tensor.name, tensor.nbytes, count)  # once more, for the output
    return Weights(host, tuple(layers))


def split_by_shares(layers: Sequence[int], shares: Sequence[float]) -> tuple[int, ...]:
    """How the bytes of the offloaded `layers`, the output last, divide over GPUs by these shares (`--tensor-split`).

    Layer n of N goes to the first GPU whose share, added to those before it, ends behind n/N. So shares that are whole
    numbers, N together, give each GPU exactly as many layers.
    """
    ends = [sum(shares[: n + 1]) / sum(shares) for n in range(len(shares))]
    found = [0] * len(shares)
    for n, size in enumerate(layers):
        found[next(gpu for gpu, end in enumerate(ends) if n / len(layers) < end)] += size
    return tuple(found)


def _layer(name: str, count: int) -> int:
    """The number of a tensor's layer: INPUT_LAYER for the input, `count` for the output."""
    if name.startswith("blk."):
        number = name[4:].partition(".")[0]
        return int(number) if number.isdecimal() and len(number) <= 10 else count
    return INPUT_LAYER if name.startswith(INPUT_TENSORS) else count


def _buffer_rules(args: Sequence[Arg]) -> list[tuple[re.Pattern[str], str]]:
    """What flags say about single tensors: patterns of their names, and the buffer. The first match counts."""
    rules: list[tuple[str, str]] = []
    for arg in args:
        value = arg.values[0] if arg.values else ""
        number = min(int(value), MAX_CPU_LAYERS) if value.isdecimal() and len(value) <= 10 else 0
        match arg.flag.name:
            case "--cpu-moe" if not arg.negated:
                rules.append((EXPERTS, "CPU"))
            case "--n-cpu-moe":
                rules.append((rf"blk\.{_numbers_below(number)}{EXPERTS}", "CPU"))
            case "--n-cpu-ffn":
                rules.append((rf"blk\.{_numbers_below(number)}{DENSE}", "CPU"))
            case "--override-tensor":
                for rule in value.split(","):
                    pattern, _, buffer = rule.rpartition("=")
                    rules.append((pattern, buffer))
    compiled = []
    for pattern, buffer in rules:
        try:
            compiled.append((re.compile(pattern), buffer))
        except re.error:
            continue  # C++ knows expressions that Python does not
    return compiled


def _numbers_below(number: int) -> str:
    """A pattern for the numbers from 0 on; one that never matches if there is none."""
    return f"(?:{'|'.join(map(str, range(number)))})" if number else "(?!)"
