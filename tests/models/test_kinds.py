from __future__ import annotations

from pathlib import Path

import pytest

from router.demo import write_tiny
from router.models import gguf, kinds
from router.models.describe import describe
from router.models.folders import ModelFolders
from tests.models.rig import Build, put, write_header

OTHERS = [
    ("llama", "adapter", "blk.0.attn_q.weight.lora_a", "an adapter"),
    ("clip", None, "v.patch_embd.weight", "a projector"),
    ("clip", "mmproj", "t", "a projector"),
    (None, "imatrix", "blk.0.in_sum2", "an importance matrix"),
    ("llama", None, "", "a vocabulary without a model"),
    ("flux", None, "double_blocks.0.img_attn.qkv.weight", "for images"),
    ("sd1", None, "t", "for images"),
    ("wan", None, "t", "for images"),
    (None, None, "model.diffusion_model.input_blocks.0.weight", "for images"),
    (None, None, "decoder.conv_in.weight", "for images"),
    (None, None, "anything", "names no architecture"),
    ("whisper", None, "t", "speech recognition"),
    ("wavtokenizer-dec", None, "t", "a vocoder"),
    ("controlvector", None, "direction.1", "a control vector"),
    ("eagle3", None, "t", "a draft model"),
]


@pytest.mark.parametrize(("arch", "kind", "tensor", "words"), OTHERS)
def test_other_kinds_are_told_by_their_headers(
    models: Path, build: Build, arch: str | None, kind: str | None, tensor: str, words: str
) -> None:  # B-F5
    path = write_header(models / "x.gguf", arch, kind=kind, tensor=tensor)
    assert words in (kinds.other_kind(gguf.read(path)) or "")
    info = describe(build(models_dir=models).models[0]).info
    assert info.problem == f"{path} is {info.other_kind}"
    assert words in (info.other_kind or "")


@pytest.mark.parametrize("arch", ["llama", "qwen3vl", "bert", "t5encoder", "mamba", "dream", "an-architecture-of-2030"])
def test_language_models_are_none_of_these(tmp_path: Path, arch: str) -> None:  # B-F5
    assert kinds.other_kind(gguf.read(write_header(tmp_path / "x.gguf", arch, kind="model"))) is None
    assert kinds.peek(tmp_path / "x.gguf") is None


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"lmgg" + bytes(100), "GGML"),
        (b"tjgg" + bytes(100), "GGML"),
        (b"PK\x03\x04" + bytes(100), "PyTorch"),
        ((24).to_bytes(8, "little") + b'{"__metadata__":{}}     ', "safetensors"),
    ],
)
def test_files_of_other_formats_are_told_by_their_first_bytes(
    models: Path, build: Build, start: bytes, words: str
) -> None:  # B-F5
    put(models / "x.gguf").write_bytes(start)
    info = describe(build(models_dir=models).models[0]).info
    assert words in (info.other_kind or "")


@pytest.mark.parametrize("start", [b"", b"G", b"GGUF", b"GGUF\x03\0\0\0", b"<html>", bytes(8), b"\xff" * 99])
def test_damaged_files_are_models_with_a_problem(models: Path, build: Build, start: bytes) -> None:  # B-F5
    put(models / "x.gguf").write_bytes(start)
    info = describe(build(models_dir=models).models[0]).info
    assert info.other_kind is None
    assert info.problem


def test_a_name_alone_decides_nothing(models: Path) -> None:  # B-F5
    for name in ("alpaca-lora-7b", "llama-imatrix-Q4_K_M", "adapter-vocab-tokenizer", "sub/imatrix-a", "sub/lora-b"):
        put(models / f"{name}.gguf")
        write_tiny(models / f"{name}.gguf")
    write_header(models / "harmless.imatrix.gguf", None, kind="imatrix")
    write_header(models / "style-lora.gguf", "llama", kind="adapter")
    found = ModelFolders(models).read()
    assert set(found.models) == {
        "adapter-vocab-tokenizer",
        "alpaca-lora-7b",
        "llama-imatrix-Q4_K_M",
        "sub",
        "sub/lora-b",
    }
    assert set(found.left_out) == {"harmless.imatrix", "style-lora"}
    assert f"{models}/style-lora.gguf is an adapter" in found.left_out["style-lora"]


def test_a_folder_holds_its_model_whatever_lies_beside_it(models: Path, build: Build) -> None:  # B-F5
    write_header(models / "m" / "a-style.gguf", "llama", kind="adapter")
    write_header(models / "m" / "b-vision-part.gguf", "clip")
    write_header(models / "m" / "c-data.gguf", None, kind="imatrix")
    write_header(models / "m" / "d-head.gguf", "eagle3")
    write_tiny(models / "m" / "model-Q4_K_M.gguf")
    write_tiny(models / "m" / "model-Q8_0.gguf")
    found = build(models_dir=models)
    assert [spec.name for spec in found.models] == ["m", "m:Q8_0"]
    assert {spec.mmproj_path for spec in found.models} == {models / "m" / "b-vision-part.gguf"}
    assert set(found.left_out) == {"m/a-style", "m/c-data"}


def test_companions_without_a_model_are_left_out_with_a_word(models: Path) -> None:  # B-F5
    put(models / "mmproj-x.gguf")
    put(models / "only" / "mmproj-y.gguf")
    put(models / "only" / "mtp-z.gguf")
    found = ModelFolders(models).read()
    assert not found.models
    assert set(found.left_out) == {"mmproj-x", "only/mmproj-y", "only/mtp-z"}
