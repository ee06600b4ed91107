"""The fast path in whole routers, with the fake engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.conftest import Starter
from tests.front import (
    CHAT,
    Client,
    body_of,
    post,
)
from tests.routers import Router, chat
from tests.waiting import PATIENCE_S, eventually


@contextlib.asynccontextmanager
async def whole(routers: Starter, fake: str, models: Path, **environ: str) -> AsyncIterator[tuple[Router, Client]]:
    """A router with the fake engine, and a client. The router keeps a connection to the child of tiny-a."""
    router = routers("--engine", fake, "--models-dir", str(models), "--allowed-hosts", "h", **environ)
    url = httpx.URL(router.url)
    client = Client(*await asyncio.open_connection(url.host, url.port))
    client.patience = PATIENCE_S
    try:
        assert (await client.ask(post(CHAT, body_of(**chat("tiny-a"))))).status == 200
        yield router, client
    finally:
        client.leave()
        await asyncio.sleep(0)  # the loop closes the socket in its next turn


async def test_router_answers_pipelined_requests_in_order(routers: Starter, fake: str, tiny_models: Path) -> None:
    async with whole(routers, fake, tiny_models) as (_, client):
        counts = [1, 3, 2, 5, 4] * 4
        client.send(b"".join(post(CHAT, body_of(**chat("tiny-a", count))) for count in counts))
        for count in counts:
            assert (await client.reply()).json()["usage"]["completion_tokens"] == count
        reply = await client.ask(post(CHAT, body_of(**chat("tiny-a")), version="1.0"))
        assert (reply.status, reply.named("connection")) == (200, ["close"])
        assert await client.is_closed()


async def test_request_survives_the_end_of_its_child(routers: Starter, fake: str, tiny_models: Path) -> None:  # B-S14
    async with whole(routers, fake, tiny_models, FAKE_CRASH_AFTER_REQUESTS="1") as (router, client):
        assert (await client.ask(post(CHAT, body_of(**chat("tiny-a"))))).status == 200
        assert router.loads() == 2


async def test_stopped_router_answers_first(
    routers: Starter, fake: str, tiny_models: Path, tmp_path: Path
) -> None:  # B-S3
    journal = tmp_path / "journal"
    slow = {"FAKE_FIRST_SECONDS": "0.5", "FAKE_JOURNAL": str(journal)}
    async with whole(routers, fake, tiny_models, **slow) as (router, client):
        client.send(post(CHAT, body_of(**chat("tiny-a"))))
        await eventually(lambda: journal.read_text().count(" request ") == 2)
        stopped = asyncio.create_task(asyncio.to_thread(router.stop))
        reply = await client.reply()
        assert (reply.status, reply.named("connection")) == (200, ["close"])
        assert await client.is_closed()
        assert await stopped == 0
        assert "a defect" not in router.log
