"""Ollama's options in the engine's names."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.ollama import prompt
from router.api.ollama.options import OPTIONS, AliasDefaults

HI = [{"role": "user", "content": "hi"}]


def chat(defaults: AliasDefaults | None = None, **fields: Any) -> dict[str, Any]:
    return prompt.chat({"messages": HI, **fields}, defaults or AliasDefaults()).fields


def test_options_get_the_engines_names() -> None:
    options: dict[str, Any] = {"temperature": 0, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.9, "seed": 7}
    options |= {"repeat_penalty": 1.1, "repeat_last_n": 8, "presence_penalty": 1, "frequency_penalty": 2}
    options |= {"mirostat": 2, "mirostat_tau": 3, "mirostat_eta": 0.2, "num_predict": 9, "num_keep": 4, "stop": "x"}
    options |= {"num_ctx": 1 << 20, "num_gpu": 99, "num_thread": 1, "penalize_newline": True, "of_no_meaning": [1]}
    named = {"num_predict": "n_predict", "num_keep": "n_keep"}
    kept = {name: value for name, value in options.items() if name in OPTIONS}
    expected = {named.get(name, name): value for name, value in kept.items()}
    assert chat(options=options) == {"messages": HI, **expected, "stop": ["x"], "stream": True}


@pytest.mark.parametrize("count", [-1, -2, 0, None])
def test_no_limit_is_no_field(count: int | None) -> None:
    assert chat(options={"num_predict": count, "repeat_last_n": -1}) == {"messages": HI, "stream": True}


def test_a_request_overrides_the_defaults_of_an_alias() -> None:
    own = AliasDefaults("Be brief.", {"seed": 1, "top_k": 2})
    fields = chat(own, options={"seed": 3})
    assert (fields["seed"], fields["top_k"]) == (3, 2)
    assert fields["messages"][0] == {"role": "system", "content": "Be brief."}
    said = {"role": "system", "content": "Be long."}
    assert chat(own, messages=[said, *HI])["messages"] == [said, *HI]
    systems = ("", "No.")
    generated = [prompt.generate({"prompt": "x", "system": system}, own).fields["messages"] for system in systems]
    assert [[m["content"] for m in messages] for messages in generated] == [["Be brief.", "x"], ["No.", "x"]]
