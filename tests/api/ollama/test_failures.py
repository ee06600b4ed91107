"""A model that fails is an error in Ollama's shape: in a status, or in the last line of a stream."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ollama import ResponseError

from tests.api.ollama.asking import client_of, error_of
from tests.conftest import Starter
from tests.routers import FAKE, Router


@pytest.fixture
def breaking(routers: Starter, tiny_models: Path, tmp_path: Path) -> Router:
    """Its model's process ends in the middle of an answer, or before it."""
    presets = tmp_path / "presets.ini"
    presets.write_text(
        "".join(
            f"[{name}]\nmodel = {tiny_models}/tiny-a.gguf\nenv.FAKE_{variable}\nenv.FAKE_FAIL = out of luck\n"
            for name, variable in {"middle": "CRASH_AFTER_CHUNKS = 3", "never": "EXIT_CODE = 3"}.items()
        )
        + f"[slow]\nmodel = {tiny_models}/tiny-a.gguf\nenv.FAKE_CHUNK_SECONDS = 30\n"
    )
    return routers("--engine", FAKE, "--models-preset", str(presets), "--max-generation-time", "1")


def test_a_child_that_dies_ends_the_stream_with_an_error_line(breaking: Router) -> None:  # B-C4
    body = {"model": "middle", "messages": [{"role": "user", "content": "hi"}]}
    with breaking.client.stream("POST", "/api/chat", json=body) as response:
        *lines, last = [json.loads(line) for line in response.iter_lines()]
    assert response.status_code == 200
    assert [line["message"]["content"] for line in lines] == ["one ", "two ", "three "][: len(lines)]
    assert last.keys() == {"error"}
    whole = breaking.client.post("/api/chat", json={**body, "stream": False})
    assert whole.status_code == 502
    assert error_of(whole)
    with client_of(breaking) as client, pytest.raises(ResponseError):
        list(client.generate("middle", "hi", stream=True))


def test_a_generation_without_a_limit_is_ended(breaking: Router) -> None:  # B-L14
    body = {"model": "slow", "messages": [{"role": "user", "content": "hi"}]}
    first, last = (json.loads(line) for line in breaking.client.post("/api/chat", json=body).iter_lines())
    assert first["message"]["content"] == "one "
    assert (last["done"], last["done_reason"]) == (True, "length")
    whole = breaking.client.post("/api/generate", json={"model": "slow", "prompt": "hi", "stream": False})
    assert (whole.status_code, whole.json()["done_reason"]) == (200, "length")
    assert "one" in whole.json()["response"]


def test_a_failed_load_is_an_error(breaking: Router) -> None:
    response = breaking.client.post("/api/generate", json={"model": "never", "prompt": "hi"})
    assert response.status_code == 500
    assert "out of luck" in error_of(response)
