"""Routers with real engines, and Ollama's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from tests.api.ollama.asking import client_of
from tests.routers import ENGINES, Router, start

# Whose answers begin with nothing: the vocabulary of the tiny models makes of "assistant:" what no grammar expects.
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture(scope="package", params=sorted(ENGINES))
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="package")
def router(engine_name: str, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """Models that speak and embed, and room for one."""
    folder = tmp_path_factory.mktemp("ollama")
    (folder / "models.ini").write_text(
        f"[plain]\nmodel = {tiny_models}/tiny-a.gguf\nchat-template = {PLAIN}\nunlisted = true\n"
    )
    flags = ("--models-dir", str(tiny_models), "--models-preset", str(folder / "models.ini"), "--models-max", "1")
    engine = ENGINES[engine_name]()
    made = start(folder / "router", "--engine", engine, *flags, "--embeddings", "--pooling", "mean")
    yield made
    made.stop()


@pytest.fixture
def client(router: Router) -> Iterator[ollama.Client]:
    with client_of(router) as made:
        yield made
        for model in made.ps().models:  # no keep_alive is left behind
            made.generate(model.model or "", keep_alive=0)
