"""Routers with real engines, two clients with keys of their own, and OpenAI's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.routers import ENGINES, Router, start

# Whose answers begin with nothing: the vocabulary of the tiny models makes of "assistant:" what no grammar expects.
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"


def client_of(router: Router, key: str = "mine", **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{router.url}/v1", api_key=key, max_retries=0, timeout=30, **more)


@pytest.fixture(scope="package", params=sorted(ENGINES))
def router(
    request: pytest.FixtureRequest, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("responses")
    (folder / "models.ini").write_text(f"[plain]\nmodel = {tiny_models}/tiny-a.gguf\nchat-template = {PLAIN}\n")
    flags = ("--models-dir", str(tiny_models), "--models-preset", str(folder / "models.ini"), "--models-max", "1")
    made = start(folder / "router", "--engine", ENGINES[request.param](), *flags, "--api-key", "mine,yours")
    made.client.headers["authorization"] = "Bearer mine"
    yield made
    made.stop()


@pytest.fixture
def client(router: Router) -> Iterator[openai.OpenAI]:
    with client_of(router) as made:
        yield made
