from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf as writer
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.errors import GgufError
from router.models.gguf import read, read_model
from router.models.metadata import ArrayInfo, Metadata


def pack(fields: bytes = b"", n_fields: int = 0, n_tensors: int = 0, version: int = 3, order: str = "<") -> bytes:
    return b"GGUF" + struct.pack(f"{order}IQQ", version, n_tensors, n_fields) + fields


def text(value: str, order: str = "<") -> bytes:
    return struct.pack(f"{order}Q", len(value.encode())) + value.encode()


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("endian", [writer.GGUFEndian.LITTLE, writer.GGUFEndian.BIG])
def test_types_arrays_and_byte_order_are_read(tmp_path: Path, endian: writer.GGUFEndian) -> None:
    path = tmp_path / "x.gguf"
    out = writer.GGUFWriter(path, "qwen3", endianess=endian)
    out.add_block_count(4)
    out.add_head_count_kv([1, 2, 3, 4])
    out.add_pooling_type(writer.PoolingType.RANK)
    out.add_file_type(15)
    out.add_float32("qwen3.scale", 0.5)
    out.add_bool("qwen3.flag", True)
    out.add_int8("qwen3.small", -3)
    out.add_array("general.tags", ["a", "b"])
    out.add_array("long", list(range(5000)))
    out.add_token_list([f"t{n}" for n in range(100_000)])
    quantized = np.zeros((2, 144), dtype=np.uint8)
    out.add_tensor("w", quantized, raw_dtype=writer.GGMLQuantizationType.Q4_K)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    metadata = read(path)
    assert metadata.integers("attention.head_count_kv") == (1, 2, 3, 4)
    assert metadata.integers("attention.head_count", 9) == (9, 9, 9, 9)
    assert (metadata.pooling, metadata.quantization) == ("rank", "Q4_K_M")
    assert (metadata.fields["qwen3.scale"], metadata.fields["qwen3.flag"]) == (0.5, True)
    assert metadata.fields["qwen3.small"] == -3
    assert metadata.integer("small", 7) == 7
    assert metadata.fields["general.tags"] == ("a", "b")
    assert metadata.fields["long"] == ArrayInfo("i32", 5000)
    assert metadata.vocabulary == 100_000
    assert (metadata.tensors[0].type, metadata.tensors[0].shape, metadata.tensors[0].nbytes) == ("Q4_K", (256, 2), 288)


def test_unknown_tensor_type_takes_the_room_it_has(file: Callable[[bytes], Path]) -> None:
    tensors = b"".join(text(n) + struct.pack("<IQIQ", 1, 8, 999, at) for n, at in (("a", 0), ("b", 64)))
    head = pack(tensors, n_tensors=2)
    metadata = read(file(head + bytes(-len(head) % 32) + bytes(96)))
    assert [t.nbytes for t in metadata.tensors] == [64, 32]
    assert metadata.tensors[0].type == "type 999"


HUGE = 2**63
BAD = {
    "empty": b"",
    "not gguf": b"PK\3\4" + bytes(100),
    "magic only": b"GGUF",
    "version 1": pack(version=1),
    "version 4": pack(version=4),
    "field count": pack(n_fields=HUGE),
    "tensor count": pack(n_tensors=HUGE),
    "key length": pack(struct.pack("<Q", HUGE), n_fields=1),
    "key past the end": pack(struct.pack("<Q", 1000) + b"short", n_fields=1),
    "value type": pack(text("k") + struct.pack("<I", 77), n_fields=1),
    "duplicate": pack((text("k") + struct.pack("<II", 4, 1)) * 2, n_fields=2),
    "long array": pack(text("k") + struct.pack("<IIQ", 9, 4, HUGE), n_fields=1),
    "long string array": pack(text("k") + struct.pack("<IIQ", 9, 8, HUGE), n_fields=1),
    "string in array": pack(text("k") + struct.pack("<IIQQ", 9, 8, 5000, HUGE), n_fields=1),
    "nested array": pack(text("k") + struct.pack("<IIQ", 9, 9, 1), n_fields=1),
    "alignment": pack(text("general.alignment") + struct.pack("<II", 4, 0), n_fields=1),
    "odd alignment": pack(text("general.alignment") + struct.pack("<II", 4, 48), n_fields=1),
    "dimensions": pack(text("t") + struct.pack("<I", 5), n_tensors=1),
    "tensor past the end": pack(text("t") + struct.pack("<IQIQ", 1, 1 << 40, 0, 0), n_tensors=1),
    "offset past the end": pack(text("t") + struct.pack("<IQIQ", 1, 1, 0, HUGE), n_tensors=1),
    "shape overflow": pack(text("t") + struct.pack("<IQQIQ", 2, HUGE, HUGE, 0, 0), n_tensors=1),
    "row": pack(text("t") + struct.pack("<IQIQ", 1, 33, 2, 0), n_tensors=1),
    "layers": pack(
        text("general.architecture") + struct.pack("<I", 8) + text("x")
        + text("x.block_count") + struct.pack("<IQ", 10, HUGE),
        n_fields=2,
    ),
}  # fmt: skip  # fmt: skip


@pytest.mark.timeout(10)  # it is a matter of milliseconds, or of hours
@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_bad_header_is_an_error(file: Callable[[bytes], Path], content: bytes) -> None:
    path = file(content)
    with pytest.raises(GgufError) as caught:
        read(path)
    assert str(path) in caught.value.message
    assert len(caught.value.message) < len(str(path)) + 300


def test_hostile_strings_cost_little(file: Callable[[bytes], Path]) -> None:
    # 8 MB of empty strings, believed in as far as the file goes
    path = file(pack(text("k") + struct.pack("<IIQ", 9, 8, 1 << 21) + bytes(8 << 20), n_fields=1))
    tracemalloc.start()
    with pytest.raises(GgufError):
        read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_header_is_metadata_or_an_error(tiny: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(tiny.read_bytes())
    header = len(content) - read(tiny).weights_bytes
    damaged = tmp_path / "damaged.gguf"
    places = st.integers(0, header - 1)
    for at, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        content[at] = byte
    end = data.draw(st.one_of(st.just(len(content)), places))
    damaged.write_bytes(content[:end])
    try:
        metadata = read_model(damaged)
    except GgufError:
        return
    touch(metadata)


def touch(metadata: Metadata) -> None:
    """Every property answers, whatever the header said."""
    assert metadata.weights_bytes >= 0
    assert metadata.n_params >= 0
    assert len(metadata.integers("attention.head_count_kv")) == metadata.n_layers
    _ = metadata.quantization, metadata.pooling, metadata.chat_template, metadata.vocabulary, metadata.context_length
