"""Tiny models that embed or rank, with random weights: real GGUF files that load in milliseconds."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WORDS = ("the", "a", "of", "and", "to", "in", "is", "it")
POOLING = {"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS, "rank": gguf.PoolingType.RANK}


def write_bert(path: Path, *, pooling: str = "mean", width: int = 32, context: int = 1024, layers: int = 1) -> Path:
    """Write an F32 GGUF of the BERT architecture; returns `path`. Each of WORDS is one token."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"▁{word}" for word in WORDS), *map(chr, range(97, 123))]
    kinds = [gguf.TokenType.CONTROL] * 5 + [gguf.TokenType.NORMAL] * (len(tokens) - 5)
    inner, random = 2 * width, np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(path.stem)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(POOLING[pooling])
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_type_count(2)
    writer.add_unk_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", random.normal(0.0, 0.5, shape).astype(np.float32))
        if name not in ("token_embd", "token_types", "position_embd"):
            writer.add_tensor(f"{name}.bias", np.zeros(shape[0], dtype=np.float32))

    add("token_embd", len(tokens), width)
    add("token_types", 2, width)
    add("position_embd", context, width)
    add("token_embd_norm", width)
    for layer in range(layers):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{name}", width, width)
        add(f"{block}.attn_output_norm", width)
        add(f"{block}.ffn_up", inner, width)
        add(f"{block}.ffn_down", width, inner)
        add(f"{block}.layer_output_norm", width)
    if pooling == "rank":
        add("cls", width, width)
        add("cls.output", 1, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
