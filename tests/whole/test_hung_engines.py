"""A real engine that hangs, and one that only computes for long: the first is ended in time, the second left alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from router import demo
from tests.conftest import Starter
from tests.processes import suspend
from tests.routers import Router
from tests.waiting import PATIENCE_S, until
from tests.whole.gpu_machine import pids
from tests.whole.test_every_end import SHORT, WAYS, Stage

TIMEOUT_S = 1.0
CONTEXT = 32768
ENDLESS = 30_000  # tokens: minutes of work


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is small, but takes seconds for a prompt of some thousand tokens on one core."""
    path = tmp_path_factory.mktemp("large") / "large.gguf"
    return demo.write_tiny(path, layers=8, width=512, heads=8, kv_heads=2, context=CONTEXT)


@pytest.fixture
def router(routers: Starter, engine: str, large: Path, tmp_path: Path) -> Router:
    """With the large model under two names, one slot each."""
    models = tmp_path / "models.ini"
    one = f"model = {large}\nparallel = 1\nctx-size = {CONTEXT}\nstop-timeout = 2\n"
    models.write_text(f"[model]\n{one}[bystander]\n{one}")
    flags = ("--engine", engine, "--models-preset", str(models), "--models-memory-margin", "0")
    return routers(*flags, "--models-health-timeout", str(TIMEOUT_S))


def ask(router: Router, prompt: str) -> tuple[int, float]:
    """The status of the answer, and how many seconds it took."""
    began = time.monotonic()
    answer = router.client.post("/completion", json={"model": "model", "prompt": prompt, "n_predict": 1}, timeout=300)
    return answer.status_code, time.monotonic() - began


def prompts(count: int, length: int) -> Iterator[str]:
    """None has a beginning in common with another one, which the engine would not compute again."""
    return (f"{number} {'x' * length}" for number in range(count))


def test_a_child_that_computes_a_long_prompt_is_left_alone(router: Router) -> None:  # B-S20
    """The only slot computes for longer than a child without life would be left, and another request waits for it."""
    length, took = 1000, 0.0
    assert ask(router, "hi")[0] == 200
    while took < 2 * TIMEOUT_S:
        length *= 2
        assert length < CONTEXT, "this machine is too fast for this model"
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda prompt: ask(router, prompt), prompts(2, length)))
        assert [status for status, _ in answers] == [200] * 2
        took = min(seconds for _, seconds in answers)  # the slot computed for all of this time, for one prompt
    assert router.loads() == 1


def test_a_child_that_hangs_at_its_work_is_ended_and_others_never_notice(router: Router) -> None:  # B-S20
    """All dialects wait for the only slot."""
    ways = [way for way in WAYS if way not in SHORT]
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2 * len(WAYS)))
        stack.callback(router.kill)  # else a failure would wait for all answers
        beats, held = list[str](), list[str]()
        stage = Stage(router, pool)
        read = pool.submit(follow, router, "bystander", beats)
        holder = pool.submit(follow, router, "model", held)
        until(lambda: held and beats)
        stage.ask("model", *ways)
        stage.until_active("model", 1 + len(ways))
        suspend(pids(router)["model"])
        clients = [end.result(PATIENCE_S) for _, end in stage.ends]
        assert {client.way: client.has_failed for client in clients} == dict.fromkeys(ways, True)
        holder.result(PATIENCE_S)
        assert '"error"' in held[-1]
        so_far = len(beats)
        until(lambda: len(beats) > so_far + 10)  # the bystander's stream goes on
        assert not read.done()
        assert router.chat("model").status_code == 200
        assert router.loads("bystander") == 1
        assert "defect" not in router.log


def follow(router: Router, model: str, told: list[str]) -> None:
    """Collect the events of an endless stream."""
    with router.stream(model, ENDLESS) as events:
        for event in events:
            told.append(event)
