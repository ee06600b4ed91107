"""The memory for what clients send and name is limited."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Message, Scope

from router import errors
from router.api.ollama import options
from router.models.catalog import Catalog
from router.proxy.body import read_body, release_body
from router.proxy.budget import Budget, Reservation
from router.proxy.conversation import MAX_ID_BYTES, conversation_id
from router.proxy.routing import LOOK_BACK_FIELDS, MAX_LOOK_BACK, routing_fields
from tests.conftest import Starter
from tests.pool.bench import Bench, bench, spec
from tests.routers import Router, chat
from tests.waiting import eventually

MIB = 1024**2


def sizes(owner: object, known: set[int]) -> Iterator[tuple[str, int]]:
    """How many entries each book of an object holds, and of all parts of the router that it refers to."""
    known.add(id(owner))
    names = [*getattr(owner, "__dict__", ()), *getattr(owner, "__slots__", ())]
    for name, value in ((name, getattr(owner, name)) for name in names if hasattr(owner, name)):
        if isinstance(value, (dict, set, list)):
            yield f"{type(owner).__name__}.{name}", len(value)
        elif type(value).__module__.startswith("router.") and id(value) not in known:
            yield from sizes(value, known)


async def test_nothing_is_kept_of_names_that_have_left() -> None:  # B-T5
    async with bench("m-0-0") as b:
        for turn in range(1, 60):
            for known in b.pool.catalog.models[:2]:
                await use(b, known.name)
            names = [f"m-{turn}-{number}" for number in range(20)]
            await b.pool.exchange.replace(Catalog(spec(name) for name in names))
            for name in names:  # what a listing asks
                b.pool.effective(name)
                b.pool.status(name)
            with contextlib.suppress(errors.RouterError):
                b.pool.unload(names[-1])
        await eventually(
            lambda: not b.pool.processes.runs or all(run in b.pool.catalog for run in b.pool.processes.runs)
        )
        await b.pool.exchange.replace(Catalog([spec("last")]))
        await eventually(lambda: not b.pool.processes.runs)
        books = dict(sizes(b.pool, set()))
        assert {"SettingsStore._effective", "LaunchPlans.specs", "ChangeLog.versions"} <= books.keys()
        fixed = ("FlagTable.", "Journal._subscribers")  # as many as there are flags, and kinds of events
        assert {name: size for name, size in books.items() if size > 2 and not name.startswith(fixed)} == {}


async def use(b: Bench, name: str) -> None:
    b.node.held.setdefault(name, next(iter(b.node.held.values())))
    (await b.pool.lease(b.pool.catalog.resolve(name))).release()


def request_of(chunks: list[bytes], *headers: tuple[bytes, bytes]) -> Request:
    left = iter(chunks)

    async def receive() -> Message:
        chunk = next(left, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers), "query_string": b""}
    return Request(scope, receive)


async def test_bodies_are_reserved_as_they_come() -> None:  # B-T5
    budget = Budget(100)
    first = request_of([b"x" * 30] * 2)
    assert len(await read_body(first, 1000, budget)) == 60
    second = request_of([b"x" * 30] * 2)
    with pytest.raises(errors.QueueFull, match="--models-queue-bytes"):
        await read_body(second, 1000, budget)
    assert budget.reserved == 90  # until its endpoint has ended
    release_body(second.scope)
    release_body(second.scope)
    assert budget.reserved == 60
    release_body(first.scope)
    assert budget.reserved == 0


async def test_large_length_is_refused_before_the_body() -> None:  # B-T5
    budget, read = Budget(100), []

    async def receive() -> Message:
        read.append(1)
        return {"type": "http.request", "body": b""}

    Reservation(budget).add(50)
    for length, error in ((51, errors.QueueFull), (101, errors.BodyTooLarge)):
        scope: Scope = {"type": "http", "method": "POST", "headers": [(b"content-length", b"%d" % length)]}
        with pytest.raises(error, match="--models-queue-bytes"):
            await read_body(Request(scope, receive), 1000, budget)
    assert not read


def test_budget_without_a_limit_takes_everything() -> None:  # B-T5
    held = Reservation(Budget())
    held.add(2**40)
    held.release()


def test_conversation_id_is_limited() -> None:  # B-T5 B-T6
    assert conversation_id("a" * MAX_ID_BYTES)
    with pytest.raises(errors.InvalidRequest):
        conversation_id("a::" * MAX_ID_BYTES)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/messages"])
def test_flood_of_waiting_bodies_is_refused_and_released(  # B-T5
    path: str, routers: Starter, tiny_models: Path, fake: str, tmp_path: Path
) -> None:
    slow = tmp_path / "llama-server"
    slow.write_text(f'#!/bin/sh\n[ "$1" = --help ] && exec {fake} --help\nexec {fake} --load-seconds 30 "$@"\n')
    slow.chmod(0o755)
    router = routers("--engine", str(slow), "--models-dir", str(tiny_models), "--models-queue-bytes", "16")
    asyncio.run(flood(router, path))


async def flood(router: Router, path: str) -> None:
    status = 529 if path == "/v1/messages" else 503  # as Anthropic says it
    body = {**chat("tiny-a"), "messages": [{"role": "user", "content": "x" * 4 * MIB}]}
    async with httpx.AsyncClient(base_url=router.client.base_url, timeout=60) as client:
        waiting = [asyncio.create_task(client.post(path, json=body)) for _ in range(10)]
        refused: list[httpx.Response] = []
        async with asyncio.timeout(30):
            while len(refused) < 7:
                done, _ = await asyncio.wait(waiting, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                refused = [task.result() for task in done]
        for answer in refused:
            assert (answer.status_code, "retry-after" in answer.headers) == (status, True)
            assert "--models-queue-bytes" in answer.text
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with asyncio.timeout(10):  # they have left: there is room again
            while True:
                again = asyncio.create_task(client.post(path, json=body))
                done, _ = await asyncio.wait([again], timeout=1)
                again.cancel()
                if not done:
                    return


@pytest.mark.parametrize("name", LOOK_BACK_FIELDS)
@pytest.mark.parametrize("large", [False, True])
def test_look_back_is_limited(name: str, large: bool) -> None:  # B-T5
    for value, is_fine in ((MAX_LOOK_BACK, True), (-1, True), (None, True), (MAX_LOOK_BACK + 1, False), (1e9, False)):
        body = json.dumps({"model": "a", name: value, "prompt": "x" * 100_000 * large}).encode()
        if is_fine:
            assert routing_fields(body, None).model == "a"
            continue
        with pytest.raises(errors.InvalidRequest, match=name):
            routing_fields(body, None)
        if name in options.OPTIONS:
            with pytest.raises(errors.InvalidRequest, match=name):
                options.checked_options({name: value})
