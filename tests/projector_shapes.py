"""Projectors of the sizes that people run, as sparse files. A text model beside them is not needed to measure them.

As in `tests.shapes`, dimensions are letters: D is the width, F the inner width of a network, O the text model's width,
S the patch, Z the positions. Tensor names are those of llama.cpp's tools/mtmd/clip-impl.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf

from tests.shapes import Shape

BIASED = """
    ln1 D; ln1.bias D; ln2 D; ln2.bias D; attn_q D D; attn_q.bias D; attn_k D D; attn_k.bias D; attn_v D D;
    attn_v.bias D; attn_out D D; attn_out.bias D; ffn_up D F; ffn_up.bias F; ffn_down F D; ffn_down.bias D
"""
FUSED = """
    ln1 D; ln1.bias D; ln2 D; ln2.bias D; attn_qkv D 3*D; attn_qkv.bias 3*D; attn_out D D; attn_out.bias D;
    ffn_up D F; ffn_up.bias F; ffn_down F D; ffn_down.bias D
"""
WHISPER = BIASED.replace("attn_k.bias D;", "")
GATED = "ln1 D; ln2 D; attn_q D D; attn_k D D; attn_v D D; attn_out D D; ffn_up D F; ffn_gate D F; ffn_down F D"
GATED_BIASED = """
    ln1 D; ln2 D; attn_q D D; attn_q.bias D; attn_k D D; attn_k.bias D; attn_v D D; attn_v.bias D; attn_out D D;
    attn_out.bias D; ffn_up D F; ffn_up.bias F; ffn_gate D F; ffn_gate.bias F; ffn_down F D; ffn_down.bias D
"""
GATED_FUSED = "ln1 D; ln2 D; attn_qkv D 3*D; attn_out D D; ffn_up D F; ffn_gate D F; ffn_down F D"
PATCH = "v.patch_embd S S 3 D"
PATCHES = "v.patch_embd S S 3 D; v.patch_embd.weight.1. S S 3 D"
BIAS = "v.patch_embd.bias D"
POSITION = "v.position_embd D Z"
POST = "v.post_ln D; v.post_ln.bias D"
PRE = "v.pre_ln D; v.pre_ln.bias D"
FILM = "mm.0 4*D 4*D; mm.0.bias 4*D; mm.2 4*D O; mm.2.bias O"
ONE_TWO = "mm.1 4*D 4*D; mm.1.bias 4*D; mm.2 4*D O; mm.2.bias O"
INPUT_NORM = "mm.input_norm D; mm.input_norm.bias D"
LIMITS: dict[str, Any] = {"vision.image_min_pixels": 3136, "vision.image_max_pixels": 12845056}
SOUND = """
    a.conv1d.1 3 B D; a.conv1d.1.bias 1 D; a.conv1d.2 3 D D; a.conv1d.2.bias 1 D; a.position_embd D 1500;
    a.post_ln D; a.post_ln.bias D
"""


def small_projector(folder: Path, out: int) -> Path:
    """A small one for a text model of this width, under a name by which projectors are found."""
    top = "v.patch_embd S S 3 D; v.position_embd D Z; mm.model.fc D O"
    layer = "attn_q D D; attn_k D D; attn_v D D; attn_out D D; ffn_up D F; ffn_down F D"
    return seen("mmproj", "idefics3", layer, 1, top, width=32, heads=2, inner=64, size=28, out=out).write(folder)


def seen(
    name: str,
    kind: str,
    layer: str | Sequence[str],
    count: int,
    top: str,
    *,
    width: int = 1152,
    heads: int = 16,
    inner: int = 4304,
    size: int = 448,
    patch: int = 14,
    out: int = 4096,
    positions: int = 0,
    act: str = "gelu",
    **fields: Any,
) -> Shape:
    """A projector for pictures."""
    return Shape(
        name,
        "clip",
        {"D": width, "F": inner, "S": patch, "Z": positions or (size // patch) ** 2, "O": out},
        [layer] * count if isinstance(layer, str) else layer,
        block="v.blk",
        top=top,
        type=gguf.GGMLQuantizationType.F16,
        fields={
            "has_vision_encoder": True,
            "projector_type": kind,
            f"use_{act}": True,
            "vision.image_size": size,
            "vision.patch_size": patch,
            "vision.embedding_length": width,
            "vision.feed_forward_length": inner,
            "vision.block_count": count,
            "vision.projection_dim": out,
            "vision.attention.head_count": heads,
            "vision.attention.layer_norm_epsilon": 1e-6,
            "vision.image_mean": [0.5, 0.5, 0.5],
            "vision.image_std": [0.5, 0.5, 0.5],
            **{key.replace("__", "."): value for key, value in fields.items()},
        },
    )


def heard(
    name: str,
    kind: str,
    top: str,
    *,
    layer: str = WHISPER,
    width: int = 1280,
    heads: int = 20,
    inner: int = 5120,
    count: int = 32,
    bins: int = 128,
    out: int = 4096,
    **fields: Any,
) -> Shape:
    """A projector for sound."""
    return Shape(
        name,
        "clip",
        {"D": width, "F": inner, "O": out, "B": bins},
        [layer] * count,
        block="a.blk",
        top=top,
        type=gguf.GGMLQuantizationType.F16,
        fields={
            "has_audio_encoder": True,
            "projector_type": kind,
            "audio.embedding_length": width,
            "audio.feed_forward_length": inner,
            "audio.block_count": count,
            "audio.projection_dim": out,
            "audio.num_mel_bins": bins,
            "audio.attention.head_count": heads,
            "audio.attention.layer_norm_epsilon": 1e-5,
            **{key.replace("__", "."): value for key, value in fields.items()},
        },
    )


PROJECTORS = (
    seen(
        "qwen2-vl-7b",
        "qwen2vl_merger",
        BIASED,
        32,
        f"{PATCHES}; {POST}; {FILM}",
        width=1280,
        inner=5120,
        size=560,
        out=3584,
        act="silu",
    ),
    seen(
        "qwen2.5-vl-7b",
        "qwen2.5vl_merger",
        GATED_BIASED,
        32,
        f"{PATCHES}; v.post_ln D; {FILM}",
        width=1280,
        inner=3420,
        size=560,
        out=3584,
        act="silu",
        vision__n_wa_pattern=8,
    ),
    seen(
        "qwen3-vl-8b",
        "qwen3vl_merger",
        FUSED,
        27,
        f"{PATCHES}; {BIAS}; {POSITION}; {POST}; {FILM}; "
        + "; ".join(
            f"v.deepstack.{n}.norm 4*D; v.deepstack.{n}.norm.bias 4*D; v.deepstack.{n}.fc1 4*D 4*D; "
            f"v.deepstack.{n}.fc1.bias 4*D; "
            f"v.deepstack.{n}.fc2 4*D O; v.deepstack.{n}.fc2.bias O"
            for n in (8, 16, 24)
        ),
        size=768,
        patch=16,
        vision__spatial_merge_size=2,
    ),
    seen("ling3-vl", "ling3vl", FUSED, 27, f"{PATCHES}; {BIAS}; {POSITION}; {INPUT_NORM}; {FILM}", size=768, patch=16),
    seen(
        "pixtral-12b",
        "pixtral",
        GATED,
        24,
        f"{PATCH}; v.pre_ln D; mm.1 D O; mm.1.bias O; mm.2 O O; mm.2.bias O; v.token_embd.img_break. O",
        width=1024,
        inner=4096,
        size=1024,
        patch=16,
        out=5120,
        act="silu",
    ),
    seen(
        "mistral-small-3.1",
        "pixtral",
        GATED,
        24,
        f"{PATCH}; v.pre_ln D; mm.1 D O; mm.2 O O; mm.input_norm D; mm.patch_merger 4*D D; v.token_embd.img_break. O",
        width=1024,
        inner=4096,
        size=1540,
        patch=14,
        out=5120,
        act="silu",
        vision__spatial_merge_size=2,
    ),
    seen(
        "lightonocr-1b",
        "lightonocr",
        GATED,
        24,
        f"{PATCH}; v.pre_ln D; mm.1 D O; mm.2 O O; mm.input_norm D; mm.patch_merger 4*D D",
        width=1024,
        inner=4096,
        size=1540,
        patch=14,
        out=1024,
        act="silu",
        vision__spatial_merge_size=2,
    ),
    seen(
        "kimi-vl",
        "kimivl",
        BIASED,
        27,
        f"{PATCH}; {BIAS}; {POSITION}; {POST}; {INPUT_NORM}; {ONE_TWO}",
        size=896,
        out=2048,
        vision__projector__scale_factor=2,
    ),
    seen(
        "kimi-k2.5",
        "kimik25",
        BIASED,
        27,
        f"{PATCH}; {BIAS}; v.position_embd D 64 64; {POST}; {INPUT_NORM}; {ONE_TWO}",
        size=896,
        out=7168,
        vision__projector__scale_factor=2,
    ),
    seen(
        "gemma-3-4b",
        "gemma3",
        BIASED,
        27,
        f"{PATCH}; {BIAS}; {POSITION}; {POST}; mm.input_projection O D; mm.soft_emb_norm D",
        size=896,
        out=2560,
    ),
    seen(
        "gemma-4",
        "gemma4v",
        f"{GATED}; attn_post_norm D; ffn_post_norm D; attn_q_norm D//16; attn_k_norm D//16",
        27,
        f"{PATCH}; v.position_embd D 10240 2; mm.input_projection D O",
        patch=16,
        size=768,
        out=3840,
    ),
    seen(
        "gemma-4-unified",
        "gemma4uv",
        "attn_out D D; ffn_up D D; ffn_down D D",
        0,
        "v.patch_embd 9*S*S*3 D; v.patch_embd.bias D; v.position_embd D 1120 2; mm.input_projection D O; "
        "v.patch_norm.1 9*S*S*3; v.patch_norm.1.bias 9*S*S*3; v.patch_norm.2 D; v.patch_norm.2.bias D; "
        "v.patch_norm.3 D; v.patch_norm.3.bias D",
        width=3840,
        patch=16,
        size=768,
        out=3840,
    ),
    seen(
        "llama-4-scout",
        "llama4",
        BIASED,
        34,
        f"v.patch_embd S*S*3 D; v.class_embd. D; v.position_embd D Z+1; {PRE}; {POST}; mm.model.mlp.1 4*D 4096; "
        "mm.model.mlp.2 4096 4096; mm.model.fc 4096 O",
        width=1408,
        inner=5632,
        size=336,
        out=5120,
        vision__projector__scale_factor=2,
    ),
    seen(
        "internvl3-8b",
        "internvl",
        f"{FUSED}; ls1 D; ls2 D",
        24,
        f"{PATCH}; {BIAS}; v.class_embd. D; v.position_embd D Z+1; mm.model.mlp.0 4*D; mm.model.mlp.0.bias 4*D; "
        "mm.model.mlp.1 4*D O; mm.model.mlp.1.bias O; mm.model.mlp.3 O O; mm.model.mlp.3.bias O",
        width=1024,
        inner=4096,
        out=3584,
        vision__projector__scale_factor=2,
    ),
    seen(
        "internvl3-78b",
        "internvl",
        f"{FUSED}; ls1 D; ls2 D; attn_q_norm D; attn_k_norm D".replace(
            "attn_qkv D 3*D; attn_qkv.bias 3*D", "attn_q D D; attn_k D D; attn_v D D"
        ),
        45,
        f"{PATCH}; {BIAS}; v.class_embd. D; v.position_embd D Z+1; mm.model.mlp.0 4*D; mm.model.mlp.0.bias 4*D; "
        "mm.model.mlp.1 4*D O; mm.model.mlp.1.bias O; mm.model.mlp.3 O O; mm.model.mlp.3.bias O",
        width=3200,
        heads=25,
        inner=12800,
        out=8192,
        vision__projector__scale_factor=2,
    ),
    seen(
        "llava-1.5-7b",
        "mlp",
        BIASED,
        24,
        f"{PATCH}; v.class_embd. D; v.position_embd D Z+1; {PRE}; {POST}; mm.0 D O; mm.0.bias O; mm.2 O O; mm.2.bias O",
        width=1024,
        inner=4096,
        size=336,
    ),
    seen(
        "granite-vision-3.3",
        "mlp",
        BIASED,
        27,
        f"{PATCH}; {BIAS}; {POSITION}; {POST}; mm.0 4*D O; mm.0.bias O; mm.2 O O; mm.2.bias O",
        size=384,
        out=2048,
        vision__feature_layer=[3, 7, 15, 26],
    ),
    seen(
        "smolvlm2",
        "idefics3",
        BIASED,
        27,
        f"{PATCH}; {BIAS}; {POSITION}; {POST}; mm.model.fc 16*D O",
        size=512,
        patch=16,
        out=2048,
        vision__projector__scale_factor=4,
    ),
    seen(
        "lfm2-vl-1.6b",
        "lfm2",
        BIASED,
        27,
        f"{PATCH}; {BIAS}; v.position_embd D 256; {POST}; mm.input_norm 4*D; mm.input_norm.bias 4*D; "
        "mm.1 4*D 2560; mm.1.bias 2560; mm.2 2560 O; mm.2.bias O",
        size=256,
        patch=16,
        out=2048,
        vision__projector__scale_factor=2,
    ),
    seen(
        "phi-4-vision",
        "phi4",
        BIASED,
        27,
        f"{PATCH}; {BIAS}; v.position_embd D 256; {POST}; mm.0 D O; mm.0.bias O; mm.2 O O; mm.2.bias O",
        size=256,
        patch=16,
        out=3072,
        **LIMITS,
    ),
    seen(
        "janus-pro-7b",
        "janus_pro",
        BIASED,
        24,
        f"{PATCH}; {BIAS}; {POSITION}; {POST}; mm.0 D O; mm.0.bias O; mm.1 O O; mm.1.bias O",
        width=1024,
        inner=4096,
        size=384,
        patch=16,
    ),
    seen(
        "minicpm-v-2.6",
        "resampler",
        BIASED,
        27,
        f"{PATCH}; {BIAS}; v.position_embd D 4900; {POST}; resampler.pos_embed_k. O 4900; "
        "resampler.query. O 64; resampler.proj O O; resampler.kv D O; resampler.attn.q O O; resampler.attn.k O O; "
        "resampler.attn.v O O; "
        "resampler.attn.q.bias O; resampler.attn.k.bias O; resampler.attn.v.bias O; resampler.attn.out O O; "
        "resampler.attn.out.bias O; "
        "resampler.ln_q O; resampler.ln_q.bias O; resampler.ln_kv O; resampler.ln_kv.bias O; resampler.ln_post O; "
        "resampler.ln_post.bias O",
        out=3584,
        minicpmv_version=3,
    ),
    seen(
        "glm-4.6v-flash",
        "glm4v",
        GATED_FUSED,
        24,
        f"{PATCHES}; {BIAS}; {POSITION}; v.norm_embd D; v.post_ln D; mm.model.fc O O; mm.up O 13696; "
        "mm.gate O 13696; mm.down 13696 O; mm.post_norm O; mm.post_norm.bias O; mm.patch_merger 2 2 D O; "
        "mm.patch_merger.bias O",
        width=1536,
        heads=12,
        inner=4096,
        size=336,
        act="silu",
    ),
    seen(
        "cogvlm",
        "cogvlm",
        FUSED,
        63,
        f"{PATCH}; {BIAS}; v.class_embd. D; v.position_embd D Z+1; mm.model.fc D O; mm.post_fc_norm O; "
        "mm.post_fc_norm.bias O; mm.up O 14336; mm.gate O 14336; mm.down 14336 O; v.boi. O; v.eoi. O",
        width=1792,
        inner=15360,
        size=490,
    ),
    seen(
        "nemotron-v2-vl",
        "nemotron_v2_vl",
        FUSED,
        32,
        f"{PATCH}; v.class_embd. D 10; {POSITION}; mm.model.mlp.0 4*D; mm.model.mlp.1 4*D 20480; "
        "mm.model.mlp.3 20480 O",
        width=1280,
        inner=5120,
        size=512,
        patch=16,
        out=5120,
        vision__projector__scale_factor=2,
    ),
    seen(
        "dots.ocr",
        "dots_ocr",
        GATED_FUSED,
        42,
        f"{PATCH}; {BIAS}; v.pre_ln D; mm.post_norm D; {INPUT_NORM}; {FILM}",
        width=1536,
        heads=12,
        inner=4224,
        out=1536,
        act="silu",
        vision__projector__scale_factor=2,
        **LIMITS,
    ),
    seen(
        "paddleocr-vl",
        "paddleocr",
        BIASED,
        27,
        f"{PATCH}; {BIAS}; {POSITION}; {POST}; {INPUT_NORM}; {ONE_TWO}",
        size=384,
        out=1024,
        **LIMITS,
    ),
    seen(
        "hunyuan-ocr",
        "hunyuanvl",
        BIASED,
        27,
        f"{PATCH}; {BIAS}; mm.0 2 2 D 2*D; mm.0.bias 2*D; mm.2 1 1 2*D 4*D; mm.2.bias 4*D; mm.model.fc 4*D O; "
        "mm.model.fc.bias O; mm.pre_norm D; mm.post_norm O; mm.image_begin. O; mm.image_end. O; "
        "v.image_newline. 4*D; v.position_embd D 16384",
        size=2048,
        patch=16,
        out=1024,
    ),
    seen(
        "youtu-vl-4b",
        "youtuvl",
        BIASED,
        27,
        f"v.patch_embd S*S*3 D; {BIAS}; {POST}; mm.input_norm D; {FILM}",
        size=256,
        patch=16,
        out=2560,
        vision__window_size=256,
        vision__wa_layer_indexes=[7, 15, 23, 26],
    ),
    seen(
        "step3-vl-10b",
        "step3vl",
        f"{FUSED}; ls1 D; ls2 D",
        47,
        f"{PATCH}; {POSITION}; {PRE}; mm.0 3 3 D 2*D; mm.0.bias 2*D; mm.1 3 3 2*D 4*D; mm.1.bias 4*D; "
        "mm.model.fc 4*D O",
        width=1536,
        inner=8960,
        size=728,
    ),
    seen(
        "minimax-m3",
        "minimax_m3",
        BIASED,
        32,
        f"{PATCHES}; {PRE}; mm.1 D O; mm.1.bias O; mm.2 O O; mm.2.bias O; mm.merger.fc1 4*O O; mm.merger.fc1.bias O; "
        "mm.merger.fc2 O O; mm.merger.fc2.bias O",
        width=1280,
        inner=5120,
        size=672,
        out=3072,
    ),
    seen(
        "mimo-vl-2.5",
        "mimovl",
        "ln1 D; ln2 D; attn_qkv D 3072; attn_qkv.bias 3072; attn_out 2048 D; attn_out.bias D; ffn_up D F; "
        "ffn_up.bias F; "
        "ffn_gate D F; ffn_gate.bias F; ffn_down F D; ffn_down.bias D; attn_sinks. 32",
        28,
        f"{PATCHES}; {POST}; mm.0 4*D 4*D; mm.2 4*D O",
        width=1280,
        heads=32,
        inner=4608,
        size=560,
        act="silu",
        vision__attention__head_count_kv=8,
        vision__window_size=128,
        vision__wa_pattern_mode=[-1, 0, 0, 1, 1, 0, 0] * 4,
        **LIMITS,
    ),
    seen(
        "exaone-4.5",
        "exaone4_5",
        "ln1 D; ln2 D; attn_qkv D 3072; attn_qkv.bias 3072; attn_out D D; attn_out.bias D; ffn_up D F; "
        "ffn_gate D F; ffn_down F D",
        28,
        f"{PATCHES}; v.post_ln D; {FILM}",
        width=2048,
        heads=32,
        inner=5120,
        size=560,
        act="silu",
        vision__attention__head_count_kv=8,
        vision__n_wa_pattern=7,
        **LIMITS,
    ),
    seen(
        "deepseek-v4-vision",
        "deepseek4v",
        GATED,
        27,
        f"{PATCH}; {BIAS}; mm.1 9*D O; mm.1.bias O; mm.2 O O; mm.2.bias O; v.image_newline. O; "
        "v.token_embd.img_start. O; "
        "v.token_embd.img_end. O; v.token_embd.img_pad. O",
        act="silu",
        vision__projector__scale_factor=3,
        vision__image_min_pixels=65536,
    ),
    seen(
        "muse-glimmer",
        "muse-glimmer",
        BIASED,
        50,
        f"{PATCH}; {POSITION}; {PRE}; {POST}; mm.0 4*D O; mm.1 O O; mm.2 O 6656",
        width=1536,
        inner=8960,
        size=448,
    ),
    heard("qwen2-audio-7b", "qwen2a", f"{SOUND}; mm.a.fc D O; mm.a.fc.bias O"),
    heard(
        "ultravox-0.5",
        "ultravox",
        f"{SOUND}; mm.a.mlp.1 8*D 4096; mm.a.mlp.2 2048 O; mm.a.norm_pre 8*D; mm.a.norm_mid 2048",
        audio__projector__stack_factor=8,
    ),
    heard(
        "voxtral-mini-3b",
        "voxtral",
        f"{SOUND}; mm.a.mlp.1 4*D 3072; mm.a.mlp.2 3072 O",
        out=3072,
        audio__projector__stack_factor=4,
    ),
    heard(
        "meralion-2",
        "meralion",
        f"{SOUND}; mm.a.mlp.0 15*D 6400; mm.a.mlp.0.bias 6400; mm.a.mlp.1 6400 6400; mm.a.mlp.1.bias 6400; "
        "mm.a.mlp.2 6400 6400; "
        "mm.a.mlp.2.bias 6400; mm.a.mlp.3 6400 O; mm.a.mlp.3.bias O; mm.a.norm_pre 15*D; mm.a.norm_pre.bias 15*D",
        out=3584,
        bins=80,
        audio__projector__stack_factor=15,
    ),
    heard(
        "glm-asr",
        "glma",
        f"{SOUND}; mm.a.mlp.1 4*D 2*O; mm.a.mlp.1.bias 2*O; mm.a.mlp.2 2*O O; mm.a.mlp.2.bias O; mm.a.norm_pre D; "
        "mm.a.norm_pre.bias D; v.boi. O; v.eoi. O",
        out=2048,
        audio__projector__stack_factor=4,
    ),
    heard(
        "music-flamingo",
        "musicflamingo",
        f"{SOUND}; mm.a.mlp.1 D O; mm.a.mlp.1.bias O; mm.a.mlp.2 O O; mm.a.mlp.2.bias O",
        out=3584,
    ),
    heard(
        "qwen3-asr-1.7b",
        "qwen3a",
        "a.conv2d.1 3 3 1 480; a.conv2d.1.bias 480; a.conv2d.2 3 3 480 480; a.conv2d.2.bias 480; "
        "a.conv2d.3 3 3 480 480; a.conv2d.3.bias 480; "
        "a.conv_out 7680 D; a.position_embd D 1500; a.post_ln D; a.post_ln.bias D; mm.a.mlp.1 D D; "
        "mm.a.mlp.1.bias D; mm.a.mlp.2 D O; mm.a.mlp.2.bias O",
        layer=BIASED,
        width=1024,
        heads=16,
        inner=4096,
        count=24,
        out=2048,
    ),
)
