"""The shortest way of the fast path: which requests take it, and how they leave it."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from router.models.catalog import Catalog
from router.models.spec import Filters, Info, ModelSpec
from router.proxy.routing import plain_fields, routing_fields
from tests.front import CHAT, OK, Front, Works, answer, body_of, post, sends
from tests.waiting import eventually

USUAL = [{"role": "user", "content": "hello"}]


def shortest(front: Front) -> set[tuple[str, str | None]]:
    """The paths and names with a shortest way that is good."""

    def look() -> set[tuple[str, str | None]]:
        connections: set[Any] = {*front.server.server_state.connections}
        [app] = {connection._fast_path for connection in connections}
        known = [route for cache in app.cached_routes.values() for route in cache.values() if route]
        return {
            (route.head.path, name)
            for route in known
            for name, plain in route.plain_routes.items()
            if (gate := plain.open_gate()) and gate.is_current()
        }

    return front.in_server(look)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/completion", "/v1/embeddings", "/tokenize"])
async def test_a_plain_request_takes_the_shortest_way(front: Front, path: str) -> None:
    client = await front.ready()
    for _ in range(2):
        assert (await client.ask(post(path, body_of(messages=USUAL)))).status == 200
        received = front.child.received[-1]
        assert json.loads(received.body)["model"] == "a"
        assert received.head.count(b"\r\nx-request-id: mine\r\n") == 1
        assert b"\r\nauthorization: Bearer " in received.head
    assert (path, "a") in shortest(front)
    assert front.leases == 0


@pytest.mark.parametrize(
    "more",
    [
        {"stream": True},
        {"stream": 1},
        {"keep_alive": 5},
        {"options": {"num_ctx": 5}},
        {"num_ctx": 5},
        {"response_format": {"type": "json_object"}},
        {"json_schema": {"type": "object"}},
        {"tool_choice": "auto"},
        {"reasoning_effort": "low"},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"repeat_last_n": 64},
        {"best_of": 1},
        {"t_max_predict_ms": 5},
        {"dimensions": 5},
    ],
)
def test_what_says_more_to_the_router_does_not(more: dict[str, Any]) -> None:
    assert plain_fields(json.dumps({"model": "a", **more}).encode()) is None


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model": "a"', b'{"model": "a", "x": "\xff"}', b"x" * 10, b'"a"'])
def test_what_is_no_json_object_is_not_plain(body: bytes) -> None:
    assert plain_fields(body) is None


def test_a_plain_body_says_the_same_as_ever() -> None:
    for body in (b"{}", body_of(), body_of(messages=USUAL, stream=False, n_predict=-1), body_of(extra=[1] * 900)):
        found, routing = plain_fields(body), routing_fields(body, None)
        assert found is not None
        fields, outline = found
        assert (fields.get("model"), fields, outline) == (routing.model, routing.fields, routing.outline or [])
        assert not routing.stream


async def test_limits_and_refusals_hold(front: Front) -> None:
    client = await front.ready(body_limit=200)
    assert (await client.ask(post(CHAT, body_of(messages=USUAL)))).status == 200
    assert (await client.ask(post(CHAT, body_of(messages=USUAL, more="x" * 200)))).status == 413
    for name, status in (("zzz", 404), ("a\u202e", 400), ("\u0000a", 400), ("", 400), (5, 400)):
        assert (await client.ask(post(CHAT, body_of(model=name)))).status == status
    assert shortest(front) == {(CHAT, "a")}
    assert len(front.child.received) == 1


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=b", "Multipart/Mixed"])
async def test_a_form_is_no_plain_request(front: Front, kind: str) -> None:
    client = await front.ready()
    request = post(CHAT, body_of(), f"Content-Type: {kind}")
    short = await client.ask(request)
    assert short.comparable == (await client.ask_ordinary_way(request)).comparable
    assert shortest(front) == set()


async def test_a_request_without_a_token_limit_gets_one(front: Front) -> None:  # B-L14
    client = await front.ready(generation_time=60.0)
    for body in ({"model": "a"}, {"model": "a", "max_tokens": -1}, {"model": "a", "max_tokens": None}):
        assert (await client.ask(post("/completion", json.dumps(body).encode()))).status == 200
        assert b"t_max_predict_ms" in front.child.received[-1].body
    assert (await client.ask(post("/completion", body_of()))).status == 200
    assert b"t_max_predict_ms" not in front.child.received[-1].body


class Filtered(Catalog):
    def __init__(self, models: Iterable[ModelSpec]) -> None:
        super().__init__([replace(spec, filters=Filters(defaults=(("top_k", "3"),))) for spec in models])


class Choosy(Catalog):
    """What their files say is known: they take no pictures."""

    def __init__(self, models: Iterable[ModelSpec]) -> None:
        super().__init__([replace(spec, info=Info(architecture="llama")) for spec in models])


async def test_a_preset_changes_its_requests(front: Front) -> None:
    client = await front.ready(kind=Filtered)
    for _ in range(2):
        assert (await client.ask(post(CHAT, body_of(messages=USUAL)))).status == 200
        assert json.loads(front.child.received[-1].body)["top_k"] == 3
    assert shortest(front) == set()


async def test_a_picture_for_a_model_without_eyes_is_refused(front: Front) -> None:  # B-C11
    client = await front.ready(kind=Choosy)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert (await client.ask(post(CHAT, body_of(messages=USUAL)))).status == 200
    reply = await client.ask(post(CHAT, body_of(messages=[{"role": "user", "content": [picture]}])))
    assert reply.status == 400
    assert (CHAT, "a") in shortest(front)
    assert len(front.child.received) == 1


async def test_a_request_that_is_looked_at_goes_on(front: Front) -> None:  # B-O3
    client = await front.ready()
    work = front.child.act = Works()
    client.send(post(CHAT, body_of(messages=USUAL)))
    await eventually(lambda: front.leases == 1)
    assert [record.id for record in front.running] == ["mine"]
    assert [record.id for record in front.running] == ["mine"]
    work.go.set()
    reply = await client.reply()
    assert (reply.status, reply.named("x-request-id")) == (200, ["mine"])
    await eventually(lambda: not front.running)
    assert [(record.id, record.status) for record in front.records] == [("mine", 200)]
    assert (front.leases, len(front.child.received)) == (0, 1)


async def test_a_client_that_leaves_ends_its_request(front: Front) -> None:  # B-S2
    client = await front.ready()
    work = front.child.act = Works()
    client.send(post(CHAT, body_of(messages=USUAL)))
    await eventually(lambda: front.leases == 1)
    watcher = await front.client()
    client.leave()
    await work.is_cut()
    await eventually(lambda: front.leases == 0)
    front.child.act = sends(OK)
    assert (await watcher.ask(post(CHAT, body_of()))).status == 200
    assert [record.status for record in front.records] == [499, 200]


async def test_an_unload_at_once_is_told_to_the_client(front: Front) -> None:
    client = await front.ready()
    front.child.act = Works()
    client.send(post(CHAT, body_of(messages=USUAL)))
    await eventually(lambda: front.leases == 1)
    front.in_server(lambda: front.pool.unload("a", force=True))
    assert (await client.reply()).status in (502, 503)
    front.child.act = sends(OK)
    assert (await client.ask(post(CHAT, body_of()))).status == 200, "the next one has another process"


async def test_the_next_process_gets_the_next_request(front: Front) -> None:
    client = await front.ready()
    loads = []
    for _ in range(2):
        assert (await client.ask(post(CHAT, body_of(messages=USUAL)))).status == 200
        front.in_server(lambda: front.pool.unload("a"))
        assert (await client.ask(post(CHAT, body_of(messages=USUAL)))).status == 200
        loads.append(front.pool.processes.loads)
        assert (await client.ask(post(CHAT, body_of(messages=USUAL)))).status == 200
        assert shortest(front) == {(CHAT, "a")}
    assert loads == [2, 3]


@pytest.mark.parametrize("status", ["201 Created", "299 Odd", "404 Not Found", "500 Oh"])
async def test_the_status_is_that_of_the_child(front: Front, status: str) -> None:
    client = await front.ready()
    front.child.act = sends(answer(status, b'{"x": 1}', "Content-Type: application/json"))
    for _ in range(3):
        assert (await client.ask(post(CHAT, body_of()))).status == int(status[:3])
    assert [record.status for record in front.records] == [int(status[:3])] * 3


async def test_what_rests_holds_no_process_of_before(front: Front) -> None:
    client = await front.ready()
    await client.ask(post(CHAT, body_of()))
    gate = weakref.ref(front.in_server(lambda: front.pool.gate(front.pool.catalog.resolve("a"))))
    assert gate() is not None
    assert (await client.ask(post("/models/unload", b'{"model": "a"}'))).status == 200
    await eventually(lambda: gate() is None)
