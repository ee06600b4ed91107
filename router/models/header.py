"""Reads the header of one GGUF file. Weights are never read.

A header comes from anywhere, so nothing in it is believed: every length is checked against the size of the file and
against a limit before memory is spent on it. Whatever is wrong becomes a GgufError that names the file. The format is
that of ggml/src/gguf.cpp in llama.cpp. Called by `gguf`, which keeps what was read.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from router.errors import GgufError
from router.models.metadata import TENSOR_TYPES, ArrayInfo, Metadata, Scalar, Tensor, Value

# Limits far above every model there is. The longest known headers have 30 MB, 0.8 million strings (a vocabulary and
# its merges) and some thousand tensors. llama.cpp itself stops at 512 layers and 4 dimensions.
MAX_HEADER_BYTES = 128 << 20
MAX_STRING_BYTES = 8 << 20
MAX_TEXT_BYTES = 16 << 20  # of all texts that are kept: names and templates; vocabularies are not
MAX_ELEMENTS = 1 << 18  # of all arrays that are kept
MAX_SHAPE_ELEMENTS = 1 << 63  # of a tensor, as in ggml
MAX_STRINGS = 1 << 21
MAX_FIELDS = 1 << 16
MAX_FIRST_FIELDS = 64
MAX_TENSORS = 1 << 17
MAX_LAYERS = 512
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
MAX_KEPT_NUMBERS = 1024  # the longest array of numbers that is kept: no array with a value a layer is longer
MAX_KEPT_STRINGS = 64  # the longest array of strings that is kept
WINDOW_BYTES = 256 << 10

# fmt: off
# enum gguf_type -> name, and the character that `struct` has for it; 8 is a string, 9 an array
SCALARS = {
    0: ("u8", "B"), 1: ("i8", "b"), 2: ("u16", "H"), 3: ("i16", "h"), 4: ("u32", "I"), 5: ("i32", "i"),
    6: ("f32", "f"), 7: ("bool", "?"), 10: ("u64", "Q"), 11: ("i64", "q"), 12: ("f64", "d"),
}
STRING, ARRAY = 8, 9
# fmt: on


class HeaderReader:
    """Reads one header through a window of the file.

    The window is filled with the file's `read`. A memory map would end the process with SIGBUS if the file were
    truncated meanwhile.

    ::

        with files.open_regular(path) as file:
            metadata = HeaderReader(path, file, size).read()  # or GgufError
    """

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.window = b""
        self.window_start = 0  # where the window begins in the file
        self.position = 0  # where we are in the window
        # Sums over the whole header, each with its limit.
        self.n_strings = self.text_bytes = self.n_elements = 0
        self.byte_order = "<"  # as `struct` writes it

    def __repr__(self) -> str:
        return f"<HeaderReader of {self.path} at byte {self.window_start + self.position} of {self.size}>"

    def read(self) -> Metadata:
        """The whole header. Raises GgufError."""
        version = self.version()
        n_tensors, n_fields = self.number("Q"), self.number("Q")
        if n_fields > MAX_FIELDS or n_tensors > MAX_TENSORS:
            raise self.damaged(f"it claims {n_fields} fields and {n_tensors} tensors")
        fields: dict[str, Value] = {}
        for _ in range(n_fields):
            key = self.string()
            if key in fields:
                raise self.damaged(f"the field {key[:80]!r} is there twice")
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
            raise self.damaged(f"it claims {metadata.n_layers} layers")
        return metadata

    def first_fields(self) -> tuple[Value | None, Value | None]:
        """`general.architecture` and `general.type`, which writers put first; None for what does not come within the
        first fields. Raises GgufError if not even the beginning can be read."""
        self.version()
        _, n_fields = self.number("Q"), self.number("Q")
        found: dict[str, Value] = {}
        with contextlib.suppress(GgufError):  # the window may end before the header does
            for _ in range(min(n_fields, MAX_FIRST_FIELDS)):
                key = self.string()
                if "general.architecture" in found and not key.startswith("general."):
                    break  # the vocabulary is among what follows
                found[key] = self.value(self.number("I"))
        return found.get("general.architecture"), found.get("general.type")

    def version(self) -> int:
        """The version of the format. It also shows the byte order: as a number it is small, so its low bytes come first
        in a little-endian file."""
        if self.take(4) != b"GGUF":
            raise GgufError(f"{self.path} is not a GGUF file; convert the model with llama.cpp's convert_hf_to_gguf.py")
        raw = self.take(4)
        self.byte_order = "<" if raw[:2] != b"\0\0" else ">"
        version = int.from_bytes(raw, "little" if self.byte_order == "<" else "big")
        if version not in (2, 3):
            raise GgufError(f"{self.path} has GGUF version {version}, but only 2 and 3 are known; convert it again")
        return version

    def alignment(self, fields: Mapping[str, Value]) -> int:
        """To how many bytes the tensor data is aligned: a power of two."""
        alignment = fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self.damaged(f"its alignment is {alignment!r:.80}")
        return alignment

    def value(self, kind: int) -> Value:
        """The value of a field; `kind` is from enum gguf_type."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array(self.number("I"), self.number("Q"))
        _, code = self.scalar_type(kind)
        value: Scalar = self.unpack(code)[0]
        return value

    def array(self, kind: int, count: int) -> Value:
        """A short array as a tuple. Of a longer one only the count is kept; its elements are skipped."""
        if kind == STRING:
            self.n_strings += count
            if self.n_strings > MAX_STRINGS:
                raise self.damaged(f"it claims lists of {self.n_strings} strings")
            if count <= MAX_KEPT_STRINGS:
                return tuple(self.string() for _ in range(count))
            self.skip_strings(count)
            return ArrayInfo("str", count)
        name, code = self.scalar_type(kind)
        if count <= MAX_KEPT_NUMBERS:
            self.n_elements += count
            if self.n_elements > MAX_ELEMENTS:
                raise self.damaged(f"it claims lists of {self.n_elements} numbers")
            return tuple(self.unpack(f"{count}{code}"))
        self.skip(count * struct.calcsize(f"={code}"))
        return ArrayInfo(name, count)

    def scalar_type(self, kind: int) -> tuple[str, str]:
        if kind not in SCALARS:
            raise self.damaged(f"there is no value type {kind}")
        return SCALARS[kind]

    def tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        raw = []
        for _ in range(count):
            name, dimensions = self.string(), self.number("I")
            if dimensions > MAX_DIMENSIONS:
                raise self.damaged(f"the tensor {name[:80]!r} has {dimensions} dimensions")
            shape, kind, offset = self.unpack(f"{dimensions}Q"), self.number("I"), self.number("Q")
            raw.append((name, shape, kind, offset))
        # The data begins at the next multiple of the alignment; offsets count from there.
        data_start = -(-(self.window_start + self.position) // alignment) * alignment
        end = self.size - data_start
        following = _next_offsets([offset for *_, offset in raw], end)
        tensors = tuple(self.tensor(*one, following[one[-1]]) for one in raw)
        for tensor in tensors:
            if tensor.offset + tensor.nbytes > max(end, 0):
                missing = tensor.offset + tensor.nbytes - end
                raise self.damaged(f"the tensor {tensor.name[:80]!r} ends {missing} bytes after the end of the file")
        return tensors

    def tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int, next_offset: int) -> Tensor:
        """One tensor with its size, which its shape and type decide."""
        if math.prod(shape) >= MAX_SHAPE_ELEMENTS:
            raise self.damaged(f"the tensor {name[:80]!r} has {math.prod(shape)} elements")
        if kind not in TENSOR_TYPES:
            # A newer engine may know the type. The tensor then takes all bytes up to the next one.
            return Tensor(name, shape, f"type {kind}", offset, max(next_offset - offset, 0))
        label, block, size = TENSOR_TYPES[kind]
        if shape and shape[0] % block:
            raise self.damaged(f"the tensor {name[:80]!r} has rows of {shape[0]}, no multiple of {label}'s {block}")
        return Tensor(name, shape, label, offset, math.prod(shape) // block * size)

    # ---- bytes of the window

    def number(self, code: str) -> int:
        number: int = self.unpack(code)[0]
        return number

    def unpack(self, code: str) -> tuple[int, ...]:
        return struct.unpack(self.byte_order + code, self.take(struct.calcsize(f"={code}")))

    def string(self) -> str:
        """A text: its length in bytes, then its bytes as UTF-8."""
        length = self.number("Q")
        if length > MAX_STRING_BYTES:
            raise self.damaged(f"it claims a text of {length} bytes")
        self.text_bytes += length
        if self.text_bytes > MAX_TEXT_BYTES:
            raise self.damaged(f"it claims texts of {self.text_bytes} bytes")
        return self.take(length).decode("utf-8", "replace")

    def skip_strings(self, count: int) -> None:
        """Skip a long array of texts. A vocabulary has a million of them, so the inner loop does nothing else."""
        length = struct.Struct(f"{self.byte_order}Q").unpack_from
        while count:
            self.fill(8)
            data, at, last = self.window, self.position, len(self.window) - 8
            while count and at <= last:
                at += 8 + length(data, at)[0]
                count -= 1
            self.skip(at - self.position)

    def take(self, count: int) -> bytes:
        self.fill(count)
        self.position += count
        return self.window[self.position - count : self.position]

    def skip(self, count: int) -> None:
        self.position += count
        if self.window_start + self.position > min(self.size, MAX_HEADER_BYTES):
            raise self.truncated()

    def fill(self, count: int) -> None:
        """Make `count` bytes from the position on available in the window."""
        if self.position + count <= len(self.window):
            return
        self.window_start, self.position = self.window_start + self.position, 0
        if self.window_start + count > min(self.size, MAX_HEADER_BYTES):
            raise self.truncated()
        self.file.seek(self.window_start)
        self.window = self.file.read(max(count, WINDOW_BYTES))
        if len(self.window) < count:
            raise self.truncated()

    def truncated(self) -> GgufError:
        if self.size > MAX_HEADER_BYTES:
            return self.damaged(f"its header does not end within {MAX_HEADER_BYTES >> 20} MiB")
        return self.damaged("the file ends within the header")

    def damaged(self, what: str) -> GgufError:
        return GgufError(f"{self.path} is damaged or incomplete: {what}; download it again")


def _next_offsets(offsets: list[int], end: int) -> dict[int, int]:
    """For each offset the next larger one; for the largest the end."""
    ordered = sorted(set(offsets))
    return dict(zip(ordered, [*ordered[1:], end], strict=False))
