"""Models of many shapes, as sparse files: real headers, and a hole where the weights would be.

An engine loads them and reports its buffers; nothing can be generated with them. Dimensions are letters, because each
stands in several places: as a size of tensors and as a field of the header. Tensor names and sizes are those of
llama.cpp's src/models.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

KEYS = {
    "D": "embedding_length",
    "F": "feed_forward_length",
    "V": "vocab_size",
    "T": "context_length",
    "H": "attention.head_count",
    "G": "attention.head_count_kv",
    "K": "attention.key_length",
    "L": "attention.value_length",
    "E": "expert_count",
    "U": "expert_used_count",
    "X": "expert_feed_forward_length",
    "Y": "expert_shared_feed_forward_length",
    "I": "ssm.inner_size",
    "S": "ssm.state_size",
    "C": "ssm.conv_kernel",
    "R": "ssm.time_step_rank",
    "N": "ssm.group_count",
    "W": "attention.sliding_window",
    "Q": "attention.q_lora_rank",
    "B": "attention.kv_lora_rank",
    "P": "rope.dimension_count",
    "A": "shortconv.l_cache",
    "J": "wkv.head_size",
}

# Kernels that the engine multiplies as they are.
DEPTHWISE = (
    "dw_start.conv.weight",
    "dw_mid.conv.weight",
    "down_conv.weight",
    "0.0.weight",
    "peg.0.weight",
    ".dw.weight",
)

# One tensor a line: its name (`.weight` unless it says otherwise) and its dimensions, row length first.
TOP = "token_embd D V; output_norm D; output D V"
TIED = "token_embd D V; output_norm D"
NORM = "attn_norm D"
ATTENTION = "attn_q D H*K; attn_k D G*K; attn_v D G*L; attn_output H*L D"
HEAD_NORMS = "attn_q_norm K; attn_k_norm K"
DENSE = "ffn_norm D; ffn_gate D F; ffn_up D F; ffn_down F D"
PLAIN = "ffn_gate D F; ffn_up D F; ffn_down F D"
DENSE_BARE = DENSE.replace("ffn_norm", "ffn_norm.")
ROUTED = "ffn_gate_inp D E; ffn_gate_exps D X E; ffn_up_exps D X E; ffn_down_exps X D E"
SHARED = "ffn_gate_shexp D Y; ffn_up_shexp D Y; ffn_down_shexp Y D"
LATENT = """
    attn_q_a D Q; attn_q_a_norm Q; attn_q_b Q H*M; attn_kv_a_mqa D B+P; attn_kv_a_norm B;
    attn_k_b M-P B H; attn_v_b B O H; attn_output H*O D
"""
LATENT_PLAIN = """
    attn_q D H*M; attn_kv_a_mqa D B+P; attn_kv_a_norm B; attn_k_b M-P B H; attn_v_b B O H; attn_output H*O D
"""
LATENT_OLD = """
    attn_q_a D Q; attn_q_a_norm Q; attn_q_b Q H*K; attn_kv_a_mqa D B+P; attn_kv_a_norm B;
    attn_kv_b B H*(K-P+L); attn_output H*L D
"""
MAMBA = """
    ssm_in D 2*I; ssm_conv1d C I; ssm_conv1d.bias I; ssm_x I R+2*S; ssm_dt R I; ssm_dt.bias I;
    ssm_a. S I; ssm_d. I; ssm_out I D
"""
MAMBA_NORMS = "ssm_dt_norm R; ssm_b_norm S; ssm_c_norm S"
MAMBA2 = """
    ssm_in D 2*I+2*N*S+R; ssm_conv1d C I+2*N*S; ssm_conv1d.bias I+2*N*S; ssm_dt.bias R;
    ssm_a. 1 R; ssm_d. 1 R; ssm_norm I//N N; ssm_out I D
"""
DELTA_NET = """
    attn_qkv D 2*N*S+I; attn_gate D I; ssm_conv1d C 2*N*S+I; ssm_dt.bias R; ssm_a. R;
    ssm_ba D 2*R; ssm_norm S; ssm_out I D
"""
KDA = """
    ssm_conv1d_q C 1 H*128; ssm_conv1d_k C 1 H*128; ssm_conv1d_v C 1 H*128; attn_q D H*128; attn_k D H*128;
    attn_v D H*128; ssm_f_a D 128; ssm_f_b 128 H*128; ssm_beta D H; ssm_a. 1 H; ssm_dt.bias H*128; ssm_g_a D 128;
    ssm_g_b 128 H*128; ssm_norm 128; attn_output H*128 D
"""
INDEXER = """
    indexer.k_norm 128; indexer.k_norm.bias 128; indexer.proj D 64; indexer.attn_k D 128; indexer.attn_q_b Q 64*128
"""
PREDICTS = "nextn.eh_proj 2*D D; nextn.enorm D; nextn.hnorm D; nextn.shared_head_norm D"
SHORT_CONVOLUTION = "shortconv.conv A D; shortconv.in_proj D 3*D; shortconv.out_proj D D"
RWKV7 = """
    attn_norm D; attn_norm.bias D; attn_norm_2 D; attn_norm_2.bias D; time_mix_w0 D; time_mix_w1 D 64;
    time_mix_w2 64 D; time_mix_a0 D; time_mix_a1 D 64; time_mix_a2 64 D; time_mix_v0 D; time_mix_v1 D 64;
    time_mix_v2 64 D; time_mix_g1 D 64; time_mix_g2 64 D; time_mix_lerp_fused D 1 1 6; time_mix_k_k D;
    time_mix_k_a D; time_mix_r_k D; time_mix_key D D; time_mix_value D D; time_mix_receptance D D; time_mix_ln D;
    time_mix_ln.bias D; time_mix_output D D; channel_mix_lerp_k D 1 1; channel_mix_key D F; channel_mix_value F D
"""
BERT = """
    attn_q D D; attn_k D D; attn_v D D; attn_output D D; attn_output_norm D; attn_output_norm.bias D;
    ffn_up D F; ffn_down F D; layer_output_norm D; layer_output_norm.bias D
"""
LLAMA = f"{NORM}; {ATTENTION}; {DENSE}"


@dataclass(frozen=True)
class Shape:
    """The shape of one model.

    `sizes` are dimensions by letter; a list has one value a layer.
    `top` and `layers` are tables of tensors.
    `fields` are in the header besides the sizes.
    """

    name: str
    architecture: str
    sizes: Mapping[str, int | Sequence[int]]
    layers: Sequence[str]
    top: str = TOP
    fields: Mapping[str, Any] = field(default_factory=dict)
    type: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.Q4_K
    tokenizer: str = "no_vocab"
    block: str = "blk"
    shards: int = 1

    def write(self, folder: Path) -> Path:
        """The file, or the first of its shards."""
        tensors = list(self.tensors())
        if self.shards == 1:
            return self._file(folder / f"{self.name}.gguf", tensors, 0)
        step = -(-len(tensors) // self.shards)
        paths = [folder / f"{self.name}-{n + 1:05d}-of-{self.shards:05d}.gguf" for n in range(self.shards)]
        for n, path in enumerate(paths):
            self._file(path, tensors[n * step : (n + 1) * step], n)
        return paths[0]

    def tensors(self) -> list[tuple[str, list[int]]]:
        """Names and dimensions."""
        found = self._rows(self.top, "", 0)
        for n, table in enumerate(self.layers):
            found += self._rows(table, f"{self.block}.{n}.", n)
        return found

    def _rows(self, table: str, prefix: str, layer: int) -> list[tuple[str, list[int]]]:
        sizes = {letter: size if isinstance(size, int) else size[layer] for letter, size in self.sizes.items()}
        rows = []
        for row in filter(None, map(str.split, table.split(";"))):
            name, *dims = row
            if not name.endswith((".weight", ".bias", ".")):
                name += ".weight"
            rows.append((prefix + name.rstrip("."), [int(eval(each, {}, sizes)) for each in dims]))
        return rows

    def _file(self, path: Path, tensors: list[tuple[str, list[int]]], shard: int) -> Path:
        out = gguf.GGUFWriter(path, self.architecture)
        if self.shards > 1:
            out.add_uint16("split.count", self.shards)
            out.add_uint16("split.no", shard)
            out.add_int32("split.tensors.count", len(list(self.tensors())))
        if not shard:
            self._header(out)
        size = 0
        for name, dims in tensors:
            size += self._tensor(out, name, dims)
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_ti_data_to_file()
        out.close()
        os.truncate(path, path.stat().st_size + size + 32)
        return path

    def _header(self, out: gguf.GGUFWriter) -> None:
        sizes = {KEYS[letter]: size for letter, size in self.sizes.items() if letter in KEYS}
        for key, value in {"block_count": len(self.layers), "context_length": 32768, **sizes, **self.fields}.items():
            match value:
                case bool():
                    out.add_bool(f"{self.architecture}.{key}", value)
                case int() if key == "minicpmv_version":
                    out.add_int32(f"{self.architecture}.{key}", value)
                case int():
                    out.add_uint32(f"{self.architecture}.{key}", value)
                case str():
                    out.add_string(f"{self.architecture}.{key}", value)
                case float():
                    out.add_float32(f"{self.architecture}.{key}", value)
                case _:
                    out.add_array(f"{self.architecture}.{key}", list(value))
        out.add_layer_norm_rms_eps(1e-5)
        out.add_layer_norm_eps(1e-5)
        out.add_tokenizer_model(self.tokenizer)
        if self.tokenizer != "no_vocab":
            vocabulary = self.sizes["V"]
            assert isinstance(vocabulary, int)
            out.add_token_list(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str, range(vocabulary - 4))])
            out.add_token_type_count(2)

    def _tensor(self, out: gguf.GGUFWriter, name: str, dims: list[int]) -> int:
        """Adds one tensor, and returns its size. Vectors, and what nothing is multiplied with, are F32."""
        kind = self.type
        if (
            name.endswith(".bias")
            or math.prod(dims[1:3]) == 1
            or dims[0] % gguf.GGML_QUANT_SIZES[kind][0]
            or (dims[0] < 32 and not name.endswith(DEPTHWISE))
            or (self.block != "blk" and ("mel_" in name or ("embd" in name and "patch" not in name)))
        ):
            kind = gguf.GGMLQuantizationType.F32
        block, width = gguf.GGML_QUANT_SIZES[kind]
        row = dims[0] // block * width
        plain = kind == gguf.GGMLQuantizationType.F32
        stored = [*reversed(dims[1:]), dims[0] if plain else row]
        nbytes: int = math.prod(dims[1:]) * row
        out.add_tensor_info(
            name, stored, np.dtype(np.float32 if plain else np.uint8), nbytes, raw_dtype=None if plain else kind
        )
        return -(-nbytes // 32) * 32


def _grouped(**more: int) -> dict[str, int | Sequence[int]]:
    return {"D": 2048, "F": 5632, "V": 32000, "H": 16, "G": 4, "K": 128, "L": 128, "P": 128, **more}


def _hybrid(layers: int, period: int, **more: int | Sequence[int]) -> dict[str, int | Sequence[int]]:
    """Sizes of a model whose every `period`-th layer attends and whose others are recurrent."""
    heads = [4 if n % period == period - 1 else 0 for n in range(layers)]
    return {**_grouped(), "G": heads, **more}


def _alternating(layers: int, period: int, recurrent: str, attention: str, always: str) -> list[str]:
    return [f"{always}; {attention if n % period == period - 1 else recurrent}" for n in range(layers)]


ONE_NORM = "ffn_norm D"
MLA = {"D": 2048, "F": 8192, "V": 65_536, "H": 16, "G": 1, "K": 576, "L": 512, "M": 192, "O": 128, "Q": 768, "B": 512}
MLA |= {"P": 64, "E": 8, "U": 4, "X": 1024, "Y": 1024}
MLA_FIELDS = {
    "attention.key_length_mla": 192,
    "attention.value_length_mla": 128,
    "leading_dense_block_count": 1,
    "expert_shared_count": 1,
}
SSM = {"I": 4096, "S": 16, "C": 4, "R": 128}
SSM2 = {"I": 4096, "S": 128, "C": 4, "R": 64, "N": 1}

SHAPES = (
    Shape("llama", "llama", _grouped(), [LLAMA] * 6),
    Shape("llama-f16", "llama", _grouped(V=16_000), [LLAMA] * 2, type=gguf.GGMLQuantizationType.F16),
    Shape("llama-tied", "llama", _grouped(V=65_536), [LLAMA] * 4, top=TIED),
    Shape("llama-split", "llama", _grouped(), [LLAMA] * 6, shards=3),
    Shape("heads", "llama", _grouped(H=24, K=96, L=96, P=96), [LLAMA] * 4),
    Shape("qwen3", "qwen3", _grouped(V=65_536, H=32, G=8), [f"{LLAMA}; {HEAD_NORMS}"] * 4),
    Shape(
        "qwen3moe",
        "qwen3moe",
        {**_grouped(V=65_536, H=32), "E": 8, "U": 8, "X": 768},
        [f"{NORM}; {ATTENTION}; {HEAD_NORMS}; ffn_norm D; {ROUTED}"] * 3,
    ),
    Shape(
        "gemma3",
        "gemma3",
        _grouped(V=65_536, H=8, G=4, K=256, L=256, P=256, F=8192, W=1024),
        [f"{LLAMA}; {HEAD_NORMS}; post_attention_norm D; post_ffw_norm D"] * 7,
        top=TIED,
    ),
    Shape(
        "gemma2",
        "gemma2",
        _grouped(V=65_536, H=8, G=4, K=256, L=256, P=256, F=9216),
        [f"{LLAMA}; post_attention_norm D; post_ffw_norm D"] * 4,
        top=TIED,
        fields={"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention.sliding_window": 4096},
    ),
    Shape(
        "gpt-oss",
        "gpt-oss",
        {"D": 1440, "F": 1440, "V": 32_768, "H": 32, "G": 8, "K": 64, "L": 64, "P": 64, "W": 128}
        | {"E": 8, "U": 4, "X": 1440},
        [
            f"{NORM}; {ATTENTION}; attn_q.bias H*K; attn_k.bias G*K; attn_v.bias G*L; attn_output.bias D; "
            f"attn_sinks H; post_attention_norm D; {ROUTED}; "
            "ffn_gate_inp.bias E; ffn_gate_exps.bias X E; ffn_up_exps.bias X E; ffn_down_exps.bias D E"
        ]
        * 4,
        type=gguf.GGMLQuantizationType.Q8_0,
    ),
    Shape(
        "deepseek2",
        "deepseek2",
        MLA,
        [f"{NORM}; {LATENT}; {DENSE}"] + [f"{NORM}; {LATENT}; {ONE_NORM}; {ROUTED}; {SHARED}"] * 2,
        fields=MLA_FIELDS,
    ),
    Shape(
        "deepseek2-old",
        "deepseek2",
        {**MLA, "G": 16, "K": 192, "L": 128},
        [f"{NORM}; {LATENT_OLD}; {DENSE}"] + [f"{NORM}; {LATENT_OLD}; {ONE_NORM}; {ROUTED}; {SHARED}"] * 2,
        fields={"leading_dense_block_count": 1, "expert_shared_count": 1},
    ),
    Shape(
        "qwen3next",
        "qwen3next",
        {**_grouped(V=65_536, G=2, K=256, L=256, P=64), "E": 8, "U": 8, "X": 512, "Y": 512}
        | {"I": 4096, "S": 128, "C": 4, "R": 32, "N": 16},
        _alternating(
            7,  # so that not each four layers have one that attends
            4,
            DELTA_NET,
            "attn_q D 2*H*K; attn_k D G*K; attn_v D G*L; attn_output H*L D; attn_q_norm K; attn_k_norm K",
            f"{NORM}; post_attention_norm D; {ROUTED}; ffn_gate_inp_shexp D; {SHARED}",
        ),
    ),
    Shape(
        "jamba",
        "jamba",
        _hybrid(8, 4, **SSM),
        _alternating(8, 4, f"{MAMBA}; {MAMBA_NORMS}", ATTENTION, f"{NORM}; {DENSE}"),
    ),
    Shape(
        "granite-hybrid",
        "granitehybrid",
        _hybrid(8, 4, V=49_152, **SSM2),
        _alternating(8, 4, MAMBA2, ATTENTION, f"{NORM}; {DENSE}"),
    ),
    Shape(
        "falcon-h1",
        "falcon-h1",
        {**_grouped(), **SSM2},
        [f"{NORM}; {ATTENTION}; {MAMBA2}; {DENSE.replace('ffn_norm', 'ffn_norm.')}"] * 4,
    ),
    Shape(
        "lfm2",
        "lfm2",
        _hybrid(8, 4, V=65_536, A=3),
        _alternating(8, 4, SHORT_CONVOLUTION, f"{ATTENTION}; {HEAD_NORMS}", f"{NORM}; {DENSE}"),
        top="token_embd D V; token_embd_norm D",
    ),
    Shape(  # values narrower than keys, the pattern of windows in the file
        "mimo2",
        "mimo2",
        {**_grouped(K=192, L=128, P=64, W=128), "E": 8, "U": 2, "X": 1024},
        [f"{NORM}; {ATTENTION}; {DENSE}"] + [f"{NORM}; {ATTENTION}; {ONE_NORM}; {ROUTED}"] * 5,
        fields={"attention.sliding_window_pattern": [0, 1, 1, 1, 1, 0]},
    ),
    Shape("cohere2", "cohere2", _grouped(W=1024), [f"{NORM}; {ATTENTION}; {PLAIN}"] * 8, TIED, {"logit_scale": 1.0}),
    Shape(  # gate and up in one tensor, and a window that the engine leaves out
        "phi3",
        "phi3",
        _grouped(W=2048),
        [f"{NORM}; attn_qkv D H*K+2*G*K; attn_output H*K D; ffn_norm D; ffn_up D 2*F; ffn_down F D"] * 4,
    ),
    Shape(  # the last layer only predicts further tokens
        "glm4moe",
        "glm4moe",
        {**_grouped(), "E": 8, "U": 2, "X": 1024, "Y": 1024},
        [f"{NORM}; {ATTENTION}; post_attention_norm D; {PLAIN}"]
        + [f"{NORM}; {ATTENTION}; post_attention_norm D; {ROUTED}; {SHARED}; exp_probs_b.bias E"] * 3
        + [f"{NORM}; {ATTENTION}; post_attention_norm D; {ROUTED}; {SHARED}; exp_probs_b.bias E; {PREDICTS}"],
        fields={"leading_dense_block_count": 1, "expert_shared_count": 1, "nextn_predict_layers": 1},
    ),
    Shape(  # an index beside the latent cache
        "deepseek32",
        "deepseek32",
        MLA,
        [f"{NORM}; {LATENT}; {INDEXER}; {DENSE}"]
        + [f"{NORM}; {LATENT}; {INDEXER}; {ONE_NORM}; {ROUTED}; {SHARED}"] * 2,
        fields={
            **MLA_FIELDS,
            "expert_gating_func": 2,
            "rope.scaling.yarn_log_multiplier": 0.1,
            "attention.indexer.head_count": 64,
            "attention.indexer.key_length": 128,
            "attention.indexer.top_k": 2048,
        },
    ),
    Shape(  # a layer is one of three things
        "nemotron-h",
        "nemotron_h",
        {**_grouped(), **SSM2, "G": [0, 0, 4, 0] * 2, "F": [0, 8192, 0, 0] * 2},
        [f"{NORM}; {MAMBA2}", f"{NORM}; ffn_up D F; ffn_down F D", f"{NORM}; {ATTENTION}", f"{NORM}; {MAMBA2}"] * 2,
    ),
    Shape(  # linear attention with a state for each head
        "kimi-linear",
        "kimi-linear",
        {**MLA, "G": [0, 0, 0, 1], "C": 4},
        [f"{NORM}; {KDA}; {DENSE}"]
        + [
            f"{NORM}; {LATENT_PLAIN if n % 4 == 3 else KDA}; {ONE_NORM}; {ROUTED}; {SHARED}; exp_probs_b.bias E"
            for n in range(1, 4)
        ],
        fields={**MLA_FIELDS, "kda.head_dim": 128, "expert_gating_func": 2},
    ),
    Shape("mamba", "mamba", {"D": 2048, "F": 0, "V": 50_280, "H": 0, **SSM}, [f"{NORM}; {MAMBA}"] * 8),
    Shape("mamba2", "mamba2", {"D": 2048, "F": 0, "V": 50_280, "H": 0, **SSM2}, [f"{NORM}; {MAMBA2}"] * 8),
    Shape(
        "rwkv7",
        "rwkv7",
        {"D": 2048, "F": 8192, "V": 65_536, "H": 0, "J": 64},
        [RWKV7] * 4,
        top=f"{TOP}; output_norm.bias D; token_embd_norm D; token_embd_norm.bias D",
        fields={
            "attention.decay_lora_rank": 64,
            "attention.iclr_lora_rank": 64,
            "attention.value_residual_mix_lora_rank": 64,
            "attention.gate_lora_rank": 64,
            "token_shift_count": 2,
        },
    ),
    Shape(
        "bert",
        "bert",
        {"D": 1024, "F": 4096, "V": 30_522, "H": 16, "T": 512},
        [BERT] * 6,
        tokenizer="bert",
        top="token_embd D V; token_types D 2; position_embd D T; token_embd_norm D; token_embd_norm.bias D",
        fields={"attention.causal": False, "pooling_type": 1},
    ),
)

VISION = """
    ln1 D; ln1.bias D; ln2 D; ln2.bias D; attn_q D D; attn_q.bias D; attn_k D D; attn_k.bias D; attn_v D D;
    attn_v.bias D; attn_out D D; attn_out.bias D; ffn_up D F; ffn_up.bias F; ffn_down F D; ffn_down.bias D
"""
# What lies beside `llama` and shows it pictures of 512 x 512 pixels in 32 x 32 patches.
PROJECTOR = Shape(
    "mmproj",
    "clip",
    {"D": 1152, "F": 4304, "Z": 1024, "O": 2048},
    [VISION] * 8,
    block="v.blk",
    top="v.patch_embd 16 16 3 D; v.patch_embd.bias D; v.position_embd D Z; v.post_ln D; v.post_ln.bias D; "
    "mm.model.fc D*16 O",
    type=gguf.GGMLQuantizationType.F16,
    fields={
        "has_vision_encoder": True,
        "projector_type": "idefics3",
        "use_gelu": True,
        "vision.image_size": 512,
        "vision.patch_size": 16,
        "vision.embedding_length": 1152,
        "vision.feed_forward_length": 4304,
        "vision.block_count": 8,
        "vision.projection_dim": 2048,
        "vision.projector.scale_factor": 4,
        "vision.attention.head_count": 16,
        "vision.attention.layer_norm_epsilon": 1e-6,
        "vision.image_mean": [0.5, 0.5, 0.5],
        "vision.image_std": [0.5, 0.5, 0.5],
    },
)

_BY_NAME = {shape.name: shape for shape in SHAPES}


def _grown(name: str, like: str, layers: Sequence[int], **sizes: int | Sequence[int]) -> Shape:
    """A shape with other sizes, its layers those of `like` by number."""
    shape = _BY_NAME[like]
    return replace(shape, name=name, sizes={**shape.sizes, **sizes}, layers=[shape.layers[n] for n in layers], shards=1)


# The sizes that people run; too large to load here, but the engine measures them.
LARGE = (
    _grown("llama-8b", "llama", [0] * 32, D=4096, F=14336, H=32, G=8, V=128_256),
    _grown("llama-70b", "llama", [0] * 80, D=8192, F=28672, H=64, G=8, V=128_256),
    _grown("qwen3-0.6b", "qwen3", [0] * 28, D=1024, F=3072, H=16, G=8, V=151_936),
    _grown("qwen3-32b", "qwen3", [0] * 64, D=5120, F=25600, H=64, G=8, V=151_936),
    _grown("qwen3-30b-a3b", "qwen3moe", [0] * 48, D=2048, H=32, G=4, E=128, U=8, X=768, V=151_936),
    _grown("qwen3-next-80b", "qwen3next", [0, 1, 2, 3] * 12, E=512, U=10, X=512, V=151_936),
    _grown("gemma3-4b", "gemma3", [0] * 34, D=2560, F=10240, H=8, G=4, V=262_144),
    _grown("gemma3-27b", "gemma3", [0] * 62, D=5376, F=21504, H=32, G=16, K=128, L=128, P=128, V=262_144),
    _grown("gpt-oss-120b", "gpt-oss", [0] * 36, D=2880, F=2880, H=64, G=8, E=128, U=4, X=2880, V=201_088),
    _grown("deepseek-v3", "deepseek2", [0, *[1] * 60], D=7168, F=18432, H=128, Q=1536, E=256, U=8, X=2048, Y=2048),
    _grown(
        "granite-h-small",
        "granite-hybrid",
        [0, 1, 2, 3] * 10,
        D=4096,
        F=12800,
        H=32,
        G=[0, 0, 0, 8] * 10,
        I=8192,
        R=128,
    ),
    _grown("mamba-2.8b", "mamba", [0] * 64, D=2560, I=5120, R=160),
    _grown("rwkv7-7b", "rwkv7", [0] * 32, D=4096, F=16384),
    _grown("bge-m3", "bert", [0] * 24, T=8192, V=250_002),
)
