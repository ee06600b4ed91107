"""Lines of the log name the request that they belong to, and no other one. B-O5"""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.logs import request_ids
from router.logs.formats import JsonFormat, TextFormat
from tests.conftest import Starter
from tests.front import CHAT, Front, body_of, post, sends_and_resets
from tests.routers import Router, chat
from tests.waiting import until


def line_now(**given: object) -> tuple[str, dict[str, Any]]:
    """A line that is written now, as text and as JSON."""
    made = logging.LogRecord("router.x", 20, "f", 1, "said", (), None)
    made.__dict__.update(given)
    return TextFormat().format(made).partition(" I ")[2], json.loads(JsonFormat().format(made))


async def test_a_line_names_the_request_that_the_code_works_for() -> None:
    assert line_now()[0] == "router.x: said"
    with request_ids.working_for(b"r-1"):
        text, found = line_now()
        assert (text, found["request_id"]) == ("router.x [r-1]: said", "r-1")
        assert line_now(request_id="")[0] == "router.x: said"  # what is said to belong to none
        assert line_now(request_id="other")[0] == "router.x [other]: said"
        going = asyncio.create_task(asyncio.sleep(0, result=None))
        outliving = asyncio.create_task(_line_after(going))
        with request_ids.working_for(b"r-2"):
            assert request_ids.current() == "r-2"
        assert request_ids.current() == "r-1"
    assert request_ids.current() == ""
    assert await outliving == "router.x: said"  # the request has ended meanwhile


async def _line_after(task: asyncio.Task[None]) -> str:
    await task
    await asyncio.sleep(0)
    return line_now()[0]


@pytest.mark.parametrize("id", ["r-1", "a\x1b[2J", "\x7f", "x" * 128, "%s", '"'])
def test_a_hostile_id_is_text(id: str) -> None:  # B-T7
    with request_ids.working_for(id.encode()):
        text, found = line_now()
    assert text.isprintable()
    assert found["request_id"] == id


def lines_of(router: Router) -> list[dict[str, Any]]:
    return [json.loads(line) for line in router.log.splitlines()]


def test_lines_of_a_real_router(routers: Starter, fake: str, tiny_models: Path) -> None:
    router = routers(
        *("--engine", fake, "--models-dir", str(tiny_models), "--log-format", "json", "--models-max", "1"),
        FAKE_CRASH_AFTER_CHUNKS="2",
    )

    def ask(id: str, path: str, body: dict[str, Any]) -> httpx.Response:
        return router.client.post(path, json=body, headers={"x-request-id": id})

    assert ask("load-1", "/models/load", {"model": "tiny-a", "ctx_size": 512}).status_code == 200
    until(lambda: router.status("tiny-a") == "loaded")
    assert ask("load-2", "/models/load", {"model": "tiny-b"}).status_code == 200
    until(lambda: router.status("tiny-b") == "loaded")
    found = lines_of(router)
    settings = [line for line in found if "new settings" in line["message"]]
    assert [(line["request_id"], line["model"]) for line in settings] == [("load-1", "tiny-a")]
    # A process starts and stops for no single request.
    runs = [line for line in found if line["logger"] == "router.run"]
    assert runs
    assert not any("request_id" in line for line in runs)
    assert {line["model"] for line in runs} == {"tiny-a", "tiny-b"}
    assert {line["event"] for line in runs if "event" in line} >= {"start", "ready", "evict"}
    [evicted] = [line for line in runs if line.get("event") == "evict"]
    assert (evicted["model"], evicted["for"], evicted["reason"]) == ("tiny-a", "tiny-b", "count")
    assert sum(evicted["freed"].values()) > 0


def test_a_refusal_names_the_request_that_is_refused(routers: Starter, fake: str, tiny_models: Path) -> None:
    """It comes about while the pool works for another request, or for none."""
    router = routers(
        *("--engine", fake, "--models-dir", str(tiny_models), "--log-format", "json", "--models-max", "1"),
        *("--models-queue-timeout", "0.3", "--models-drain-grace", "60"),
        FAKE_CHUNK_SECONDS="0.2",
    )
    with router.stream("tiny-a", 20) as events:
        next(events)
        refused = router.client.post("/v1/chat/completions", json=chat("tiny-b"), headers={"x-request-id": "r-late"})
        assert refused.status_code == 503
    found = until(lambda: [line for line in lines_of(router) if line.get("event") == "refused"])  # a thread writes it
    assert [(line["model"], line["request_id"]) for line in found] == [("tiny-b", "r-late")]


@pytest.mark.parametrize("way", ["ask", "ask_ordinary_way"])
async def test_a_request_that_is_cut_off_is_named_on_both_ways(front: Front, way: str) -> None:
    """The handler asks for the id as the log's own does: when the line is written."""
    named: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            named.append(f"{request_ids.current()}: {record.getMessage()}")

    logger, handler = logging.getLogger("router.proxy"), Handler()
    logger.addHandler(handler)
    try:
        front.may_log_errors = True  # of uvicorn
        client = await front.ready()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
        front.child.act = sends_and_resets(head + b'{"a":')
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await getattr(client, way)(post(CHAT, body_of()))
        await front.turn()
    finally:
        logger.removeHandler(handler)
    assert [line.partition(" cut off")[0] for line in named] == ["mine: a request is"]
