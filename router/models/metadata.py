"""What the header of a GGUF file says, as frozen `Metadata`, and the tables that give its numbers their names.

The numbers are those of llama.cpp: `enum ggml_type` and `enum llama_ftype`. Pure data: `header` reads it from a file,
`gguf` from a whole model. Used by all code that needs to know what a model is or how large its parts are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """Stands for an array that is too long to keep, such as a vocabulary: the type of its elements, and their count."""

    type: str
    count: int


Value = Scalar | tuple[Scalar, ...] | ArrayInfo


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the file.

    `shape` is in ggml's order: the length of a row comes first.
    `offset` is in bytes, from the beginning of the file's tensor data.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a header says. For a split model: the `fields` of the first shard, `tensors` and `file_bytes` of all.

    The header of a stranger's file may hold anything, so every question has an answer whatever the fields are.
    """

    path: Path
    version: int
    architecture: str
    fields: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    file_bytes: int

    def __repr__(self) -> str:
        return f"<Metadata of {self.path}: {self.architecture}, {len(self.tensors)} tensors>"

    def integer(self, key: str, default: int = 0) -> int:
        """The value of `<architecture>.<key>`; `default` if it is missing or no count."""
        return _count(self.fields.get(f"{self.architecture}.{key}"), default)

    def integers(self, key: str, default: int = 0) -> tuple[int, ...]:
        """The value of `<architecture>.<key>` for each layer. Some files give one number for all, some an array."""
        value = self.fields.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple) and len(value) >= self.n_layers:
            return tuple(_count(each, default) for each in value[: self.n_layers])
        return (_count(value, default),) * self.n_layers

    def text(self, key: str) -> str | None:
        """The value of a field by its whole name; None if it is no text."""
        value = self.fields.get(key)
        return value if isinstance(value, str) else None

    @property
    def n_layers(self) -> int:
        return self.integer("block_count")

    @property
    def context_length(self) -> int:
        """The context with which the model was trained, in tokens; 0 if the file does not say."""
        return self.integer("context_length")

    @property
    def embedding_length(self) -> int:
        return self.integer("embedding_length")

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows."""
        tokens = self.fields.get("tokenizer.ggml.tokens")
        if isinstance(tokens, ArrayInfo):
            return tokens.count
        return len(tokens) if isinstance(tokens, tuple) else self.integer("vocab_size")

    @property
    def chat_template(self) -> str | None:
        return self.text("tokenizer.chat_template")

    @property
    def weights_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def n_params(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def quantization(self) -> str | None:
        """`Q4_K_M` and the like. If the file does not say it, the type that most bytes have."""
        declared = self.fields.get("general.file_type")
        if isinstance(declared, int) and declared in FILE_TYPES:
            return FILE_TYPES[declared]
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.nbytes
        return max(sizes, key=sizes.__getitem__, default=None)

    @property
    def pooling(self) -> str | None:
        """How an embedding model pools: none, mean, cls, last, or rank (a reranker). None for other models."""
        kind = self.fields.get(f"{self.architecture}.pooling_type")
        return POOLING[kind] if isinstance(kind, int) and 0 <= kind < len(POOLING) else None


def _count(value: Value | None, default: int) -> int:
    return value if isinstance(value, int) and value >= 0 else default


# fmt: off
# enum ggml_type -> name, elements in a block, bytes of a block (ggml-common.h)
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}

# enum llama_ftype (llama.h), general.file_type
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0",
    37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}
# fmt: on
POOLING = ("none", "mean", "cls", "last", "rank")  # enum llama_pooling_type
