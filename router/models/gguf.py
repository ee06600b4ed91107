"""The header of a GGUF file, as frozen Metadata. Weights are never read.

Format: ggml/src/gguf.cpp of llama.cpp. A header comes from anywhere, so every length is checked against the file and
against a limit before it is believed; whatever is wrong becomes a GgufError that names the file.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from cachetools import LRUCache

from router import files
from router.errors import GgufError

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """An array too long to keep (a vocabulary): the type of its elements and how many there are."""

    type: str
    count: int


Value = Scalar | tuple[Scalar, ...] | ArrayInfo


@dataclass(frozen=True, slots=True)
class Tensor:
    """`shape` is in ggml's order (row length first); `offset` counts from the begin of the file's tensor data."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a header says. Of a split model: `fields` of the first shard, `tensors` and `file_bytes` of all."""

    path: Path
    version: int
    architecture: str
    fields: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    file_bytes: int

    def integer(self, key: str, default: int = 0) -> int:
        """The value of `<architecture>.<key>`, or `default` where it is missing or no count."""
        return _count(self.fields.get(f"{self.architecture}.{key}"), default)

    def integers(self, key: str, default: int = 0) -> tuple[int, ...]:
        """`<architecture>.<key>` for each layer: some files give one number, some an array."""
        value = self.fields.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple) and len(value) >= self.n_layers:
            return tuple(_count(each, default) for each in value[: self.n_layers])
        return (_count(value, default),) * self.n_layers

    def text(self, key: str) -> str | None:
        value = self.fields.get(key)
        return value if isinstance(value, str) else None

    @property
    def n_layers(self) -> int:
        return self.integer("block_count")

    @property
    def context_length(self) -> int:
        return self.integer("context_length")

    @property
    def embedding_length(self) -> int:
        return self.integer("embedding_length")

    @property
    def vocabulary(self) -> int:
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
        """`Q4_K_M` and the like; where the file does not say it, the type that most bytes have."""
        declared = self.fields.get("general.file_type")
        if isinstance(declared, int) and declared in FILE_TYPES:
            return FILE_TYPES[declared]
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.nbytes
        return max(sizes, key=sizes.__getitem__, default=None)

    @property
    def pooling(self) -> str | None:
        """How an embedding model pools: none, mean, cls, last, rank (a reranker); None for other models."""
        kind = self.fields.get(f"{self.architecture}.pooling_type")
        return POOLING[kind] if isinstance(kind, int) and 0 <= kind < len(POOLING) else None


def _count(value: Value | None, default: int) -> int:
    return value if isinstance(value, int) and value >= 0 else default


# Limits far above every model there is: the longest headers known are 30 MB, 0.8 million strings (a vocabulary and
# its merges), some thousand tensors. llama.cpp itself stops at 512 layers and 4 dimensions.
MAX_HEADER = 128 << 20
MAX_STRING = 8 << 20
MAX_TEXT = 16 << 20  # bytes of all texts that are kept: names, templates; vocabularies are not
MAX_ELEMENTS = 1 << 18  # of all arrays that are kept
MAX_SHAPE = 1 << 63  # elements of a tensor, as in ggml
MAX_STRINGS = 1 << 21
MAX_FIELDS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_LAYERS = 512
MAX_DIMENSIONS = 4
KEEP = 1024  # longest array kept: more than any per-layer array has
WINDOW = 256 << 10

# fmt: off
# enum gguf_type -> name and struct character; 8 is a string, 9 an array
SCALARS = {
    0: ("u8", "B"), 1: ("i8", "b"), 2: ("u16", "H"), 3: ("i16", "h"), 4: ("u32", "I"), 5: ("i32", "i"),
    6: ("f32", "f"), 7: ("bool", "?"), 10: ("u64", "Q"), 11: ("i64", "q"), 12: ("f64", "d"),
}
STRING, ARRAY = 8, 9

# enum ggml_type -> name, elements a block, bytes a block (ggml-common.h)
TYPES = {
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

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def _weight(metadata: Metadata) -> int:
    """In tensors, which are what Metadata holds most of: about 300 bytes each."""
    kept = sum(len(value) for value in metadata.fields.values() if isinstance(value, str | tuple))
    return 64 + len(metadata.tensors) + len(metadata.fields) + kept // 64


_cache: LRUCache[tuple[Path, int, int, int, int], Metadata] = LRUCache(1 << 18, getsizeof=_weight)
_lock = threading.Lock()


def read(path: Path) -> Metadata:
    """The header of one file; answered from a cache while the file stays the same. Raises GgufError."""
    try:
        with files.opened(path) as file:
            status = os.fstat(file.fileno())
            key = (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            with _lock:
                known = _cache.get(key)
            metadata = known or _Header(path, file, status.st_size).read()
    except files.NotAFile as error:
        raise GgufError(f"{path} is not a file ({error.strerror}); name a .gguf file") from error
    except OSError as error:
        raise GgufError(f"cannot read the model file {path}: {error.strerror or error}") from error
    except ValueError as error:  # a path with a NUL in it
        raise GgufError(f"{str(path)!r} is not a file name") from error
    with _lock, contextlib.suppress(ValueError):  # one that is larger than the cache
        _cache[key] = metadata
    return metadata


def shards(path: Path) -> tuple[Path, ...]:
    """All files of a model by the first one's name (`-00001-of-0000N.gguf`), existing or not."""
    match = SHARD.fullmatch(path.name)
    if match is None:
        return (path,)
    stem, count = match[1], int(match[3])
    return tuple(path.with_name(f"{stem}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)) or (path,)


def read_model(path: Path) -> Metadata:
    """The whole model that begins with `path`: all its shards. Raises GgufError, which names a missing shard."""
    parts = shards(path)
    if path != parts[0]:
        raise GgufError(f"{path} is not the first shard of its model; name {parts[0].name} instead")
    for part in parts:
        if len(parts) > 1 and not part.exists():
            raise GgufError(f"{path.name} is one of {len(parts)} shards, and {part} is missing; download it too")
    first = read(path)
    declared = first.fields.get("split.count", 0)
    if isinstance(declared, int) and declared > 1 and declared != len(parts):
        raise GgufError(
            f"{path} says that it is one of {declared} shards, but its name does not; "
            f"give the files their names of the form NAME-00001-of-{declared:05d}.gguf again"
        )
    if len(parts) == 1:
        return first
    all_parts = [first, *(read(part) for part in parts[1:])]
    return replace(
        first,
        tensors=tuple(tensor for part in all_parts for tensor in part.tensors),
        file_bytes=sum(part.file_bytes for part in all_parts),
    )


class _Header:
    """Reads one header through a window of the file.

    `read`, not a memory map: a map of a file that is truncated meanwhile ends the process with SIGBUS.
    """

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.data, self.base, self.at = b"", 0, 0  # the window, where it begins in the file, where we are in it
        self.strings = self.texts = self.elements = 0
        self.order = "<"

    def read(self) -> Metadata:
        version = self.version()
        n_tensors, n_fields = self.number("Q"), self.number("Q")
        if n_fields > MAX_FIELDS or n_tensors > MAX_TENSORS:
            raise self.broken(f"it claims {n_fields} fields and {n_tensors} tensors")
        fields: dict[str, Value] = {}
        for _ in range(n_fields):
            key = self.string()
            if key in fields:
                raise self.broken(f"the field {key[:80]!r} is there twice")
            fields[key] = self.value(self.number("I"))
        tensors = self.tensors(n_tensors, self.alignment(fields))
        architecture = fields.get("general.architecture")
        metadata = Metadata(
            path=self.path,
            version=version,
            architecture=architecture if isinstance(architecture, str) else "",
            fields=MappingProxyType(fields),
            tensors=tensors,
            file_bytes=self.size,
        )
        if metadata.n_layers > MAX_LAYERS:
            raise self.broken(f"it claims {metadata.n_layers} layers")
        return metadata

    def version(self) -> int:
        if self.take(4) != b"GGUF":
            raise GgufError(f"{self.path} is not a GGUF file; convert the model with llama.cpp's convert_hf_to_gguf.py")
        raw = self.take(4)
        self.order = "<" if raw[:2] != b"\0\0" else ">"
        version = int.from_bytes(raw, "little" if self.order == "<" else "big")
        if version not in (2, 3):
            raise GgufError(f"{self.path} has GGUF version {version}, but only 2 and 3 are known; convert it again")
        return version

    def alignment(self, fields: Mapping[str, Value]) -> int:
        alignment = fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self.broken(f"its alignment is {alignment!r:.80}")
        return alignment

    def value(self, kind: int) -> Value:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array(self.number("I"), self.number("Q"))
        _, code = self.scalar(kind)
        value: Scalar = self.unpack(code)[0]
        return value

    def array(self, kind: int, count: int) -> Value:
        if kind == STRING:
            self.strings += count
            if self.strings > MAX_STRINGS:
                raise self.broken(f"it claims lists of {self.strings} strings")
            if count <= KEEP // 16:
                return tuple(self.string() for _ in range(count))
            self.skip_strings(count)
            return ArrayInfo("str", count)
        name, code = self.scalar(kind)
        if count <= KEEP:
            self.elements += count
            if self.elements > MAX_ELEMENTS:
                raise self.broken(f"it claims lists of {self.elements} numbers")
            return tuple(self.unpack(f"{count}{code}"))
        self.skip(count * struct.calcsize(f"={code}"))
        return ArrayInfo(name, count)

    def scalar(self, kind: int) -> tuple[str, str]:
        if kind not in SCALARS:
            raise self.broken(f"there is no value type {kind}")
        return SCALARS[kind]

    def tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        raw = []
        for _ in range(count):
            name, dimensions = self.string(), self.number("I")
            if dimensions > MAX_DIMENSIONS:
                raise self.broken(f"the tensor {name[:80]!r} has {dimensions} dimensions")
            shape, kind, offset = self.unpack(f"{dimensions}Q"), self.number("I"), self.number("Q")
            raw.append((name, shape, kind, offset))
        end = self.size - -(-(self.base + self.at) // alignment) * alignment  # of the data, as offsets count
        following = _following([offset for *_, offset in raw], end)
        tensors = tuple(self.tensor(*one, following[one[-1]]) for one in raw)
        for tensor in tensors:
            if tensor.offset + tensor.nbytes > max(end, 0):
                missing = tensor.offset + tensor.nbytes - end
                raise self.broken(f"the tensor {tensor.name[:80]!r} ends {missing} bytes after the end of the file")
        return tensors

    def tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int, following: int) -> Tensor:
        if math.prod(shape) >= MAX_SHAPE:
            raise self.broken(f"the tensor {name[:80]!r} has {math.prod(shape)} elements")
        if kind not in TYPES:
            # A newer engine may know the type: what lies before the next tensor is then its size.
            return Tensor(name, shape, f"type {kind}", offset, max(following - offset, 0))
        label, block, size = TYPES[kind]
        if shape and shape[0] % block:
            raise self.broken(f"the tensor {name[:80]!r} has rows of {shape[0]}, no multiple of {label}'s {block}")
        return Tensor(name, shape, label, offset, math.prod(shape) // block * size)

    # ---- the window

    def number(self, code: str) -> int:
        number: int = self.unpack(code)[0]
        return number

    def unpack(self, code: str) -> tuple[int, ...]:
        return struct.unpack(self.order + code, self.take(struct.calcsize(f"={code}")))

    def string(self) -> str:
        length = self.number("Q")
        if length > MAX_STRING:
            raise self.broken(f"it claims a text of {length} bytes")
        self.texts += length
        if self.texts > MAX_TEXT:
            raise self.broken(f"it claims texts of {self.texts} bytes")
        return self.take(length).decode("utf-8", "replace")

    def skip_strings(self, count: int) -> None:
        length = struct.Struct(f"{self.order}Q").unpack_from
        while count:
            self.fill(8)
            data, at, last = self.data, self.at, len(self.data) - 8
            while count and at <= last:  # a vocabulary has a million of these: nothing else in here
                at += 8 + length(data, at)[0]
                count -= 1
            self.skip(at - self.at)

    def take(self, count: int) -> bytes:
        self.fill(count)
        self.at += count
        return self.data[self.at - count : self.at]

    def skip(self, count: int) -> None:
        self.at += count
        if self.base + self.at > min(self.size, MAX_HEADER):
            raise self.ended()

    def fill(self, count: int) -> None:
        """See to it that `count` bytes lie ahead in the window."""
        if self.at + count <= len(self.data):
            return
        self.base, self.at = self.base + self.at, 0
        if self.base + count > min(self.size, MAX_HEADER):
            raise self.ended()
        self.file.seek(self.base)
        self.data = self.file.read(max(count, WINDOW))
        if len(self.data) < count:
            raise self.ended()

    def ended(self) -> GgufError:
        if self.size > MAX_HEADER:
            return self.broken(f"its header does not end within {MAX_HEADER >> 20} MiB")
        return self.broken("the file ends within the header")

    def broken(self, what: str) -> GgufError:
        return GgufError(f"{self.path} is damaged or incomplete: {what}; download it again")


def _following(offsets: list[int], end: int) -> dict[int, int]:
    """For each offset the next larger one, or the end."""
    ordered = sorted(set(offsets))
    return dict(zip(ordered, [*ordered[1:], end], strict=False))
