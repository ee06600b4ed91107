from __future__ import annotations

import pytest

from router.models.metadata import Metadata
from tests.memory.rig import CELL_ELEMENTS, header, kv_bytes


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("f32", 4), ("f16", 2), ("bf16", 2), ("q8_0", 34 / 32), ("q5_1", 0.75), ("q5_0", 0.6875)),
        *(("q4_1", 0.625), ("q4_0", 0.5625), ("iq4_nl", 0.5625)),
    ],
)
def test_cache_types_have_their_size(name: str, size: float) -> None:  # B-D2
    assert kv_bytes(header(), f"-ctk {name} -ctv {name}") == 4096 * CELL_ELEMENTS * size
    assert kv_bytes(header(), f"-ctk {name}") == 4096 * CELL_ELEMENTS * (size + 2) / 2
    assert kv_bytes(header(), f"-ctv {name}") == 4096 * CELL_ELEMENTS * (size + 2) / 2


@pytest.mark.parametrize(
    ("metadata", "elements"),
    [
        (header(), CELL_ELEMENTS),
        (header(attention__head_count_kv=2), CELL_ELEMENTS // 4),
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
        (header("qwen3next", 8), CELL_ELEMENTS // 2),
        (header("qwen35", 10, full_attention_interval=4), CELL_ELEMENTS // 2),
        (header("gemma4", attention__shared_kv_layers=2), CELL_ELEMENTS // 2),
        (header("glm4moe", nextn_predict_layers=1), CELL_ELEMENTS * 3 // 4),
        (header("bert"), 0),
    ],
    ids=[
        *("mha", "gqa", "per-layer", "lengths", "mla", "mla-legacy"),
        *("hybrid", "hybrid-floor", "shared", "mtp", "encoder"),
    ],
)  # fmt: skip
def test_each_kind_of_attention_keeps_its_elements(metadata: Metadata, elements: int) -> None:  # B-D2
    assert kv_bytes(metadata) == 4096 * elements * 2


def test_sliding_windows_keep_fewer_cells() -> None:  # B-D2
    gemma = header("gemma3", 6, attention__sliding_window=512)
    layer = CELL_ELEMENTS // 4 * 2
    assert kv_bytes(gemma, "-c 32768") == layer * (32768 + 5 * (4 * 512 + 512))
    assert kv_bytes(gemma, "-c 32768 -np 1") == layer * (32768 + 5 * 1024)
    assert kv_bytes(gemma, "-c 32768 -np 2") == layer * 2 * (16384 + 5 * 1024)
    assert kv_bytes(gemma, "-c 32768 --swa-full") == layer * 6 * 32768
    assert kv_bytes(gemma, "-c 256") == layer * 6 * 256
    given = header("gemma3", 6, attention__sliding_window=512, attention__sliding_window_pattern=(True,) + (False,) * 5)
    assert kv_bytes(given, "-c 32768 -np 1") == layer * (5 * 32768 + 1024)
    assert kv_bytes(header("phi3", 6, attention__sliding_window=512), "-c 32768") == layer * 6 * 32768


def test_recurrent_state_is_kept_for_each_slot() -> None:
    mamba = header("mamba", attention__head_count=0, ssm__inner_size=2048, ssm__state_size=16, ssm__conv_kernel=4)
    assert kv_bytes(mamba, "-np 1") == 4 * 4 * (3 * 2048 + 16 * 2048)
    assert kv_bytes(mamba) == 4 * kv_bytes(mamba, "-np 1")
