"""Tiny models with random weights, real GGUF files that load in milliseconds: for `llama-router demo` and for tests.

They write nonsense, but in readable words. Dimension 0 of every embedding is large and the same, so that it survives
the layers. The output weights of that dimension favour words over raw bytes and control tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from router.errors import EngineError

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
WORDS = [
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "is",
    "it",
    "that",
    "was",
    "for",
    "on",
    "with",
    "as",
    "at",
    "by",
]
CONTROL = ("<unk>", "<s>", "</s>")
WORD_BIAS = 8.0  # output weight of dimension 0: positive for words, negative for all other tokens


def write_tiny(
    path: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 2048,
    name: str | None = None,
) -> Path:
    """Write a llama-architecture F32 GGUF; returns `path`.

    It has 0.5 MB by default; `width` and `layers` scale it. Generation never ends by itself: `max_tokens` or the
    context ends it. Raises EngineError without the gguf package.
    """
    try:
        import gguf
        import numpy as np
    except ImportError as error:
        raise EngineError("writing demo models needs the gguf package: pip install 'llama-router[embedded]'") from error

    tokens = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *(f"▁{word}" for word in WORDS)]
    kinds = [
        *(gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL),
        *[gguf.TokenType.BYTE] * 256,
        *[gguf.TokenType.NORMAL] * len(WORDS),
    ]
    first_word = len(tokens) - len(WORDS)
    kv_width, inner = width // heads * kv_heads, 3 * width
    random = np.random.default_rng(seed)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name or path.stem)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)

    def add(tensor: str, *shape: int, bias: float = 0.0) -> None:
        weights = random.normal(0.0, 0.5 / np.sqrt(shape[-1]), shape).astype(np.float32)
        if bias:
            weights[:, 0] = bias
        if tensor == "output":
            weights[:first_word, 0] = -bias
        writer.add_tensor(f"{tensor}.weight", weights)

    def add_norm(tensor: str) -> None:
        writer.add_tensor(f"{tensor}.weight", np.ones(width, dtype=np.float32))

    add("token_embd", len(tokens), width, bias=1.0)
    for layer in range(layers):
        block = f"blk.{layer}"
        add_norm(f"{block}.attn_norm")
        add(f"{block}.attn_q", width, width)
        add(f"{block}.attn_k", kv_width, width)
        add(f"{block}.attn_v", kv_width, width)
        add(f"{block}.attn_output", width, width)
        add_norm(f"{block}.ffn_norm")
        add(f"{block}.ffn_gate", inner, width)
        add(f"{block}.ffn_up", inner, width)
        add(f"{block}.ffn_down", width, inner)
    add_norm("output_norm")
    add("output", len(tokens), width, bias=WORD_BIAS)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_models(folder: Path) -> list[Path]:
    """Write three models of 0.5 to 2 MB into `folder`, which is created if it is missing; existing files are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"tiny-a": 64, "tiny-b": 96, "tiny-c": 128}
    paths = [folder / f"{name}.gguf" for name in sizes]
    for seed, (path, width) in enumerate(zip(paths, sizes.values(), strict=True)):
        if not path.exists():
            write_tiny(path.with_suffix(".part"), seed=seed, width=width, name=path.stem).replace(path)
    return paths


def instructions(url: str, names: Sequence[str]) -> str:
    """What a person can type next: one curl line for each model, one that streams, and one that lists the models."""
    lines = [f"curl {url}/v1/chat/completions -d '{json.dumps(_question(name))}'" for name in names]
    lines.append(f"curl -N {url}/v1/chat/completions -d '{json.dumps(_question(names[0]) | {'stream': True})}'")
    lines.append(f"curl {url}/models")
    return "\n".join(["Tiny models with random weights, room for two of them. Try:", "", *lines, ""])


def converse(url: str, names: Sequence[str], show: Callable[[str], object]) -> list[str]:
    """Ask each model for a few words and show its answer; returns the names of models that gave none."""
    failed = []
    for name in names:
        try:
            answer = httpx.post(f"{url}/v1/chat/completions", json=_question(name), timeout=60, trust_env=False)
            text = answer.raise_for_status().json()["choices"][0]["message"]["content"].strip()
            show(f"{name}: {text}")
        except (httpx.HTTPError, ValueError, LookupError) as error:
            failed.append(name)
            show(f"{name}: no answer ({error})")
    return failed


def _question(name: str) -> dict[str, object]:
    return {"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12}
