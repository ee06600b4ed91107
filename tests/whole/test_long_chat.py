"""Ollama's own client with a chat that outgrows the context, and a model that it keeps for ever, beside a second model.

A real engine, and room for one model.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.programs import Kind, python, started
from tests.routers import Router, start

CONTEXT = 512


@pytest.fixture
def router(tiny_models: Path, tmp_path: Path) -> Iterator[Router]:
    flags = (
        "--models-dir",
        str(tiny_models),
        "--models-max",
        "1",
        "--ctx-size",
        str(CONTEXT),
        "--models-queue-timeout",
        "20",
    )
    made = start(tmp_path / "router", "--engine", "embedded", *flags)
    yield made
    made.stop()


def test_a_long_chat_goes_on_beside_another_model(router: Router, tmp_path: Path) -> None:  # B-C6 B-C13
    with started(tmp_path, router.url) as program:
        task = {"do": "grow", "url": router.url, "model": "tiny-a", "other": "tiny-b", "turns": 10}
        answer = program(Kind(python("ollama"), ("ResponseError", 400))).ask(task)
    assert "done" in answer, answer
    counts = answer["done"]["counts"]
    assert len(counts) == 10
    assert max(counts) < CONTEXT
    assert any(later < earlier for earlier, later in pairwise(counts)), "turns were dropped"
