"""PURE: a model of a few KiB that an engine can load in no time.

llama-server shows its page only beside a model, and the router must not need one of its user's for that. The model is
of the oldest architecture, so that every build can load it; all of its weights are zero. Called by `source`.
"""

from __future__ import annotations

import struct

WIDTH, INNER, CONTEXT = 32, 32, 256
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a"]
KINDS = [2, 3, 3, *[6] * 256, 1]  # unknown, control, bytes, a word: llama.h, `llama_token_attr`
UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9  # ggml/include/gguf.h, `gguf_type`
ALIGNMENT = 32


def model() -> bytes:
    """The whole GGUF file."""
    values = [
        _string("general.architecture", "llama"),
        _number("llama.context_length", CONTEXT),
        _number("llama.embedding_length", WIDTH),
        _number("llama.block_count", 1),
        _number("llama.feed_forward_length", INNER),
        _number("llama.attention.head_count", 1),
        _number("llama.attention.head_count_kv", 1),
        _number("llama.rope.dimension_count", WIDTH),
        _number("llama.vocab_size", len(TOKENS)),
        _key("llama.attention.layer_norm_rms_epsilon", FLOAT32) + struct.pack("<f", 1e-5),
        _string("tokenizer.ggml.model", "llama"),
        _array("tokenizer.ggml.tokens", STRING, [_text(token) for token in TOKENS]),
        _array("tokenizer.ggml.scores", FLOAT32, [struct.pack("<f", 0.0)] * len(TOKENS)),
        _array("tokenizer.ggml.token_type", INT32, [struct.pack("<i", kind) for kind in KINDS]),
        _number("tokenizer.ggml.unknown_token_id", 0),
        _number("tokenizer.ggml.bos_token_id", 1),
        _number("tokenizer.ggml.eos_token_id", 2),
    ]
    shapes = {
        "token_embd": (WIDTH, len(TOKENS)),
        "output_norm": (WIDTH,),
        "output": (WIDTH, len(TOKENS)),
        "blk.0.attn_norm": (WIDTH,),
        **{f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_norm": (WIDTH,),
        **{f"blk.0.ffn_{part}": (WIDTH, INNER) for part in ("gate", "up", "down")},
    }
    tensors, size = b"", 0
    for name, shape in shapes.items():
        tensors += _text(f"{name}.weight") + struct.pack("<I", len(shape))
        tensors += struct.pack(f"<{len(shape)}QIQ", *shape, 0, size)  # 0: F32
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        size += -(-count * 4 // ALIGNMENT) * ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(values)) + b"".join(values) + tensors
    return head + bytes(-len(head) % ALIGNMENT) + bytes(size)


def _text(word: str) -> bytes:
    data = word.encode()
    return struct.pack("<Q", len(data)) + data


def _key(name: str, kind: int) -> bytes:
    return _text(name) + struct.pack("<I", kind)


def _string(name: str, word: str) -> bytes:
    return _key(name, STRING) + _text(word)


def _number(name: str, number: int) -> bytes:
    return _key(name, UINT32) + struct.pack("<I", number)


def _array(name: str, kind: int, items: list[bytes]) -> bytes:
    return _key(name, ARRAY) + struct.pack("<IQ", kind, len(items)) + b"".join(items)
