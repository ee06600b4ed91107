"""Where the engine puts each tensor: in RAM, or on GPUs by layers.

The rules are llama.cpp's (llama-model.cpp, llama-model-loader.cpp, common/arg.cpp of b11434). All sizes are bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from router.engine.flags import Arg
from router.memory import kv
from router.models.metadata import Metadata

# Read by rows for the input; always in RAM unless overridden.
INPUT = ("token_embd.", "position_embd.", "token_types.", "per_layer_token_embd.")
# Models without words to put out do not use the token embeddings as output weights.
UNTIED = kv.EMBEDDERS - {"gemma-embedding"}
EXPERTS, DENSE = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps", r"\.ffn_(up|down|gate)\."


@dataclass(frozen=True, slots=True)
class Weights:
    """`host` stays in RAM; `layers` goes to GPUs, the output as the last of them."""

    host: int
    layers: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.host + sum(self.layers)


def place(args: Sequence[Arg], metadata: Metadata, first: int, *, predicts: bool = False) -> Weights:
    """With the layers from `first` on GPUs; the output is the one behind the last. Layers that only predict further
    tokens are not loaded unless the model `predicts`.
    """
    count = metadata.n_layers
    loaded = count if predicts else count - kv.predicting(metadata)
    rules = _overrides(args)
    host, layers = 0, [0] * (count + 1)

    def put(name: str, nbytes: int, layer: int) -> None:
        nonlocal host
        stays = next((buffer == "CPU" for pattern, buffer in rules if pattern.search(name)), layer < first)
        if stays:
            host += nbytes
        else:
            layers[max(layer, 0)] += nbytes

    for tensor in metadata.tensors:
        layer = _layer(tensor.name, count)
        if layer < loaded or layer == count:
            put(tensor.name, tensor.nbytes, layer)
    if first <= count and not any(tensor.name == "output.weight" for tensor in metadata.tensors):
        for tensor in metadata.tensors:
            if tensor.name == "token_embd.weight" and metadata.architecture not in UNTIED:
                put(tensor.name, tensor.nbytes, count)  # once more, for the output
    return Weights(host, tuple(layers))


def spread(layers: Sequence[int], split: Sequence[float]) -> tuple[int, ...]:
    """What of the offloaded `layers`, the output last, goes to each GPU by these shares (`--tensor-split`).

    Shares that are whole numbers of layers, as many as there are together, give each GPU just so many.
    """
    borders = [sum(split[: n + 1]) / sum(split) for n in range(len(split))]
    found = [0] * len(split)
    for n, size in enumerate(layers):
        found[next(gpu for gpu, border in enumerate(borders) if n / len(layers) < border)] += size
    return tuple(found)


def _layer(name: str, count: int) -> int:
    """-1 is the input, `count` the output."""
    if name.startswith("blk."):
        number = name[4:].partition(".")[0]
        return int(number) if number.isdecimal() and len(number) <= 10 else count
    return -1 if name.startswith(INPUT) else count


def _overrides(args: Sequence[Arg]) -> list[tuple[re.Pattern[str], str]]:
    """Patterns of tensor names and the buffer they go to; the first that matches counts."""
    rules: list[tuple[str, str]] = []
    for arg in args:
        value = arg.values[0] if arg.values else ""
        number = min(int(value), 512) if value.isdecimal() and len(value) <= 10 else 0
        match arg.flag.name:
            case "--cpu-moe" if not arg.negated:
                rules.append((EXPERTS, "CPU"))
            case "--n-cpu-moe":
                rules.append((rf"blk\.{_below(number)}{EXPERTS}", "CPU"))
            case "--n-cpu-ffn":
                rules.append((rf"blk\.{_below(number)}{DENSE}", "CPU"))
            case "--override-tensor":
                for given in value.split(","):
                    pattern, _, buffer = given.rpartition("=")
                    rules.append((pattern, buffer))
    compiled = []
    for pattern, buffer in rules:
        try:
            compiled.append((re.compile(pattern), buffer))
        except re.error:
            continue  # C++ knows some that Python does not
    return compiled


def _below(number: int) -> str:
    return f"(?:{'|'.join(map(str, range(number)))})" if number else "(?!)"
