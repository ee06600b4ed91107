"""Settings that loads request, one over the other."""

from __future__ import annotations

from typing import Any

import pytest

from router.engine import flags
from router.pool.settings_patch import read_patch
from tests.pool.bench import TABLE, settings_bench


@pytest.mark.parametrize(
    ("before", "now", "left"),
    [
        (["-c", "4096", "--top-k", "20"], {"ctx_size": 0}, ["--top-k", "20"]),
        (["-ctk", "q8_0", "-ctv", "q4_0", "--jinja"], {"cache_type_k": "f16"}, ["-ctv", "q4_0", "--jinja"]),
        (["--spec-type", "ngram-mod", "--spec-ngram-mod-n-min", "2", "-n", "9"], {"speculative_type": ""}, ["-n", "9"]),
        (["--chat-template", "chatml", "--no-warmup"], {"chat_template": "{{ messages }}"}, ["--no-warmup"]),
        (["--model-draft", "d.gguf", "-np", "2"], {"n_parallel": 0, "speculative_type": None}, []),
    ],
)
async def test_inherited_arguments_lose_only_what_is_set_anew(
    before: list[str], now: dict[str, Any], left: list[str]
) -> None:  # B-L5
    first = read_patch({"extra_args": before}, TABLE, load_args="any")
    kept = b"".join(word.encode() for word in flags.render(flags.parse(left, TABLE)))
    async with settings_bench() as b:
        requested = b.pool.settings.requested("a").apply_patch(first).apply_patch(read_patch(now, TABLE))
        assert b"".join(word.encode() for word in flags.render(requested.extra_args)) == kept
        assert requested.apply_patch(read_patch({}, TABLE)) == requested
