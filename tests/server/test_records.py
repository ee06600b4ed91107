"""Each request leaves one record, whatever happens to it and whichever way it goes."""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from random import Random
from typing import Any

import pytest
import uvicorn

from router.proxy.head import parse_head
from router.records.record import Record
from router.server.clients import ClientAddresses
from tests.front import CHAT, EVENTS, OK, Front, Reply, Works, answer, body_of, post, sends, sends_and_resets
from tests.waiting import eventually

USAGE = b'"usage":{"completion_tokens":5,"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":3}}'
TIMINGS = b'"timings":{"cache_n":3,"prompt_n":4,"prompt_ms":20.0,"predicted_n":5,"predicted_ms":500.0}'
COUNTED = answer("200 OK", b'{"choices":[],' + USAGE + b"}", "Content-Type: application/json")
TIMED = answer("200 OK", b'{"choices":[],' + USAGE + b"," + TIMINGS + b"}", "Content-Type: application/json")
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def delete(id: str) -> bytes:
    return f"DELETE /router/requests/{id} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


async def only(front: Front) -> Record:
    """The one record, when nothing runs any more."""
    await eventually(lambda: not front.running and front.records)
    [record] = front.records
    return record


async def asked(front: Front, is_fast: bool, request: bytes) -> Reply:
    client = await front.client()
    return await (client.ask if is_fast else client.ask_ordinary_way)(request)


@pytest.mark.parametrize("is_fast", [True, False])
async def test_an_answer_leaves_one_record(front: Front, is_fast: bool) -> None:  # B-O3
    await front.ready()
    front.child.act, made = sends(TIMED), front.made
    reply = await asked(front, is_fast, post(CHAT, body_of(), "User-Agent: curl/8.5", "Authorization: Bearer secret"))
    assert (reply.status, front.made > made) == (200, not is_fast)
    record = await only(front)
    assert (record.id, record.model, record.path, record.dialect) == ("mine", "a", CHAT, "openai")
    assert (record.status, record.phase, record.error, record.agent) == (200, "done", None, "curl/8.5")
    assert (record.prompt, record.cached, record.generated) == (7, 3, 5)
    assert (record.tokens_per_second, record.prompt_seconds, record.generation_seconds) == (10.0, 0.02, 0.5)
    assert record.ttft is not None
    assert 0 <= record.ttft <= record.seconds
    assert (record.load, record.stream) == (0, False)
    assert "secret" not in repr(record)
    assert json.loads(json.dumps(record.as_json()))["generated"] == 5


@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize(
    ("sent", "status", "error"),
    [
        (answer("404 Not Found", b'{"error": {}}', "Content-Type: application/json"), 404, "engine_error"),
        (answer("500 Oh", b'{"error": {"message": "oh"}}'), 500, "engine_error"),
        (answer("500 Oh", b'{"error": {"message": "Failed to parse messages: x"}}'), 400, "invalid_request"),
        (b"nonsense\r\n\r\n", 502, "upstream_failed"),
    ],
)
async def test_errors_of_the_child_have_a_word(
    front: Front, is_fast: bool, sent: bytes, status: int, error: str
) -> None:
    await front.ready()
    front.child.act = sends(sent)
    reply = await asked(front, is_fast, post(CHAT, body_of()))
    record = await only(front)
    assert (reply.status, record.status, record.error, record.phase) == (status, status, error, "failed")


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        (CHAT, b"{", 400, "invalid_request"),
        (CHAT, b'{"model": "zzz"}', 404, "unknown_model"),
        ("/v1/messages", b'{"model": "zzz"}', 404, "unknown_model"),
        ("/api/chat", b'{"model": "zzz"}', 404, "unknown_model"),
        ("/v1/responses", b'{"model": "a", "input": 5}', 400, "invalid_request"),
        (CHAT + "?autoload=0", b'{"model": "b"}', 400, "not_loaded"),
    ],
)
async def test_a_refusal_leaves_a_record_too(front: Front, path: str, body: bytes, status: int, error: str) -> None:
    client = await front.ready()
    assert (await client.ask(post(path, body))).status == status
    record = await only(front)
    assert (record.status, record.error, record.path) == (status, error, path.partition("?")[0])
    if error == "unknown_model":
        assert record.model == ""
        assert record.as_json()["model"] == record.asked
        assert record.asked.startswith("zzz")


@pytest.mark.parametrize(
    "request_", [b"GET /slots?model=a HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /models HTTP/1.1\r\nHost: h\r\n\r\n"]
)
async def test_who_only_looks_leaves_no_record(front: Front, request_: bytes) -> None:
    client = await front.ready()
    assert (await client.ask(request_)).status == 200
    assert (await client.ask(request_.replace(b"=a", b"=zzz"))).status in (200, 404)
    assert (front.records, front.running) == ([], [])


async def test_without_a_key_there_is_no_record(front: Front) -> None:
    front.start(keys=("key",))
    assert (await (await front.client()).ask(post(CHAT, body_of()))).status == 401
    assert (front.records, front.running) == ([], [])


async def test_a_queue_that_is_full_leaves_a_record(front: Front) -> None:
    client = await front.ready()
    front.pool.end()
    assert (await client.ask(post(CHAT, body_of()))).status == 503
    assert (await only(front)).error == "cancelled"


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ((), "127.0.0.1"),
        (("X-Forwarded-For: 10.0.0.1",), "10.0.0.1"),
        (("X-Forwarded-For: 10.0.0.9, 10.0.0.1", "X-Forwarded-For: 127.0.0.1"), "10.0.0.1"),
        (("X-Forwarded-For: " + "x" * 500,), "x" * 64),
    ],
)
async def test_a_client_behind_a_proxy_has_the_same_address_on_both_ways(headers: tuple[str, ...], client: str) -> None:
    """As uvicorn finds it: the last address that is not trusted."""
    head = parse_head(post(CHAT, body_of(), *headers), len(body_of()))
    assert head is not None
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"])

    config = uvicorn.Config(app, lifespan="off")
    config.load()
    scope = {"type": "http", "client": ("127.0.0.1", 1), "headers": head[0].headers}
    await config.loaded_app(scope, None, None)
    assert ClientAddresses(config, ("127.0.0.1", 1)).of(head[0]) == client == seen[0][0][:64]
    assert ClientAddresses(config, ("10.1.1.1", 1)).of(head[0]) == "10.1.1.1"  # no trusted proxy


@pytest.mark.parametrize("is_fast", [True, False])
async def test_a_client_that_leaves_is_no_error(front: Front, is_fast: bool) -> None:
    await front.ready()
    client, works = await front.client(), Works()
    front.child.act = works
    client.send(post(CHAT, body_of(), *([] if is_fast else ["Expect: 100-continue"])))
    await works.begun.wait()
    [running] = front.running
    assert (running.phase, running.status, running.model) == ("prompt", 0, "a")
    client.leave()
    await works.is_cut()
    record = await only(front)
    assert (record.status, record.phase, record.error) == (499, "left", None)


async def test_a_stream_that_its_client_leaves_keeps_what_was_counted(front: Front) -> None:
    await front.ready()

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(STREAM_HEAD + piece(b": ping\n\n") + piece(b'data: {"prompt_progress":{}}\n\n'))
        await front.turn()
        assert [(each.phase, each.ttft) for each in front.running] == [("prompt", None)]
        writer.write(piece(b"data: {}\n\n") * 10)
        await reader.read()

    front.child.act = act
    client = await front.client()
    client.send(post(CHAT, body_of(stream=True)))
    await client.read_until(b"data: {}\n\n")
    [running] = front.running
    assert (running.phase, running.status, running.stream) == ("answering", 200, True)
    client.leave()
    record = await only(front)
    assert (record.status, record.phase, record.error) == (200, "left", None)
    assert record.generated in (11, 12)  # the comment and the progress may have come with the first event
    assert record.ttft is not None


async def test_a_child_that_dies_in_a_stream_leaves_a_failed_record(front: Front) -> None:
    client = await front.ready()
    front.child.act = sends_and_resets(STREAM_HEAD + piece(b"data: {}\n\n"))
    client.send(post(CHAT, body_of(stream=True)))
    await client.read_until(b"error")
    record = await only(front)
    assert (record.status, record.phase, record.error) == (200, "failed", "upstream_failed")


async def test_a_body_that_never_comes_is_a_request_that_runs(front: Front) -> None:
    await front.ready()
    client = await front.client()
    client.send(post(CHAT, body_of())[:-2])
    await front.turn()
    assert front.running == []  # a short head and a part of its body: nobody has looked at it yet
    client.leave()
    other = await front.client()
    other.send(post(CHAT, body_of(x="y" * 500_000))[:-2])
    await eventually(lambda: [each.phase for each in front.running] == ["reading"])
    other.leave()
    record = await only(front)
    assert (record.status, record.phase, record.model) == (499, "left", "")


@pytest.mark.parametrize("ordinary", [False, True])
async def test_an_operator_stops_a_request_that_has_no_answer_yet(front: Front, ordinary: bool) -> None:  # B-O3
    await front.ready()
    operator, client, works = await front.client(), await front.client(), Works()
    front.child.act = works
    client.send(post(CHAT, body_of(), *(["Expect: 100-continue"] if ordinary else [])))
    await works.begun.wait()
    assert (await operator.ask(delete("mine"))).json() == {"id": "mine", "stopped": True}
    await works.is_cut()
    reply = await client.reply()
    reply = await client.reply() if reply.status == 100 else reply
    assert reply.status == 400
    assert reply.json()["error"]["type"] == "stopped_error"
    record = await only(front)
    assert (record.status, record.phase, record.error) == (400, "failed", "stopped")
    assert front.leases == 0
    assert (await operator.ask(delete("mine"))).status == 404
    front.child.act = sends(OK)
    assert (await client.ask(post(CHAT, body_of()))).status == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/api/chat", "/v1/responses"])
async def test_an_operator_stops_a_stream(front: Front, path: str) -> None:  # B-O3
    await front.ready()
    cut = asyncio.Event()

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        chunk = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}
        writer.write(STREAM_HEAD + piece(b"data: " + json.dumps(chunk).encode() + b"\n\n"))
        await reader.read()
        cut.set()

    front.child.act = act
    client, operator = await front.client(), await front.client()
    text: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "input": "hi"}
    more = {name: value for name, value in text.items() if (name == "input") is path.endswith("responses")}
    client.send(post(path, body_of(stream=True, **more)))
    await eventually(lambda: [each.phase for each in front.running] == ["answering"])
    assert (await operator.ask(delete("mine"))).status == 200
    reply = await client.reply()
    assert reply.status == 200
    assert b"An operator of the router has stopped this request" in reply.body
    await asyncio.wait_for(cut.wait(), 10)
    assert (await only(front)).error == "stopped"
    assert front.leases == 0


async def test_an_operator_stops_a_request_that_waits(front: Front) -> None:
    front.start()
    client, operator = await front.client(), await front.client()
    await front.turn()
    front.node.autoload = False
    client.send(post(CHAT, body_of()))
    await eventually(lambda: [each.phase for each in front.running] == ["waiting"])
    assert front.in_server(front.gateway.records.totals).waiting == 1
    assert (await operator.ask(delete("mine"))).status == 200
    assert (await client.reply()).json()["error"]["type"] == "stopped_error"
    record = await only(front)
    assert record.error == "stopped"
    assert record.waited > 0
    assert front.pool.request_counts() == (0, 0)


async def test_a_client_that_reads_nothing_can_be_stopped(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.proxy.proxied_request.STOP_GRACE_S", 0.1)
    front.may_log_errors = True  # uvicorn's own about an answer without an end
    await front.ready()
    blocked = asyncio.Event()

    async def act(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        while True:
            writer.write(piece(b"data: " + b"x" * 60_000 + b"\n\n"))
            drained = asyncio.ensure_future(writer.drain())
            if not (await asyncio.wait([drained], timeout=0.2))[0]:
                blocked.set()
            await drained

    front.child.act = act
    client, operator = await front.client(), await front.client()
    client.stop_reading()
    client.send(post(CHAT, body_of(stream=True)))
    await blocked.wait()
    assert (await operator.ask(delete("mine"))).status == 200
    assert (await only(front)).error == "stopped"
    assert front.leases == 0


async def test_requests_with_one_id_are_stopped_one_by_one(front: Front) -> None:
    await front.ready()
    operator, first, second = [await front.client() for _ in range(3)]
    works = [Works(), Works()]
    for client, each in zip((first, second), works, strict=True):
        front.child.act = each
        client.send(post(CHAT, body_of()))
        await each.begun.wait()
    listed = (await operator.ask(b"GET /router/requests HTTP/1.1\r\nHost: h\r\n\r\n")).json()["requests"]
    later, earlier = [each["id"] for each in listed if not each["status"]]
    assert {later.partition("~")[0], earlier.partition("~")[0]} == {"mine"}
    assert later != earlier
    assert (await operator.ask(delete(later))).status == 200
    reply = await second.reply()
    assert (reply.status, reply.named("x-request-id")) == (400, ["mine"])
    works[0].go.set()
    assert (await first.reply()).status == 200
    await eventually(lambda: not front.running)
    assert {(each.id, each.error) for each in front.records} == {(earlier, None), (later, "stopped")}


async def test_the_list_is_filtered(front: Front) -> None:
    client = await front.ready()
    for body in (body_of(), b'{"model": "zzz"}', b'{"model": "b"}', b"{"):
        await client.ask(post(CHAT, body))
    await eventually(lambda: not front.running)

    async def listed(query: str) -> list[tuple[str, int]]:
        reply = await client.ask(f"GET /router/requests{query} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert reply.status == 200, reply.body
        return [(each["model"], each["status"]) for each in reply.json()["requests"]]

    warm = ("a", 200)
    assert await listed("") == [("", 400), ("b", 200), ("zzz", 404), ("a", 200), warm]
    assert await listed("?limit=2") == [("", 400), ("b", 200)]
    assert await listed("?errors=1") == [("", 400), ("zzz", 404)]
    assert await listed("?model=a") == [("a", 200), warm]
    assert await listed("?model=zzz&errors=1") == [("zzz", 404)]
    assert await listed("?model=none") == []
    for wrong in ("?limit=0", "?limit=-1", "?errors=maybe", "?what=1", "?limit=1&limit=2"):
        reply = await client.ask(f"GET /router/requests{wrong} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert reply.status == 400, wrong


def acts(random: Random) -> Any:
    """What a child may do with a request."""
    stream, chunk = STREAM_HEAD, piece(b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n')

    async def hangs(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(random.choice((b"", stream, stream + chunk, OK[:-3])))
        await reader.read()

    return random.choice(
        (
            *(sends(OK), sends(TIMED), sends(EVENTS), hangs),
            *(sends_and_resets(b""), sends_and_resets(stream + chunk), sends_and_resets(OK[:30])),
            sends(answer("500 Oh", b'{"error": {"message": "oh"}}')),
        )
    )


async def anybody(front: Front, random: Random, ids: list[str]) -> tuple[list[str], list[int]]:
    """One client: it sends some requests, and reads their answers or leaves. Returns what it has sent, and the statuses
    of the answers that it got."""
    client = await front.client()
    sent: list[str] = []
    for _ in range(random.choice((1, 1, 3))):
        sent.append(f"r{len(ids)}")
        ids.append(sent[-1])
        path = random.choice(
            (CHAT, CHAT, CHAT, "/completion", "/v1/embeddings", "/v1/messages", "/api/chat", "/tokenize")
        )
        more: dict[str, Any] = {"model": random.choice(("a", "a", "a", "b", "zzz")), "stream": random.random() < 0.4}
        body = body_of(messages=[{"role": "user", "content": "hi"}], **more)
        headers = [f"X-Conversation-Id: {sent[-1]}"] if random.random() < 0.1 else []
        headers += ["Expect: 100-continue"] if random.random() < 0.2 else []
        request = post(path, body, *headers, version=random.choice(("1.1", "1.1", "1.1", "1.0")))
        client.send(request.replace(b"X-Request-Id: mine", f"X-Request-Id: {sent[-1]}".encode()))
    what = random.random()
    for _ in range(random.randrange(8)):
        await asyncio.sleep(0)
    if what < 0.3:
        client.leave()
        return sent, []
    statuses: list[int] = []
    client.patience = 0.5 if what < 0.6 else 0.1
    try:
        while len(statuses) < len(sent):
            if (reply := await client.reply()).status != 100:
                statuses.append(reply.status)
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
        client.leave()
    return sent, statuses


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_each_request_leaves_one_record(front: Front, seed: int) -> None:  # B-O3
    random, ids, told = Random(seed), list[str](), list[Record]()
    front.may_log_errors = True
    client = await front.ready(keepalive=0.05 if seed % 2 else 0.0)
    front.gateway.records.subscribe(told.append)

    async def misbehaves(reader: StreamReader, writer: StreamWriter) -> None:
        await acts(random)(reader, writer)

    async def disturbs() -> None:
        operator = await front.client()
        while True:
            await asyncio.sleep(random.random() / 20)
            if (running := front.running) and random.random() < 0.7:
                assert (await operator.ask(delete(random.choice(running).id))).status in (200, 404)
            elif random.random() < 0.3:
                await operator.ask(post("/models/unload", body_of(force=True)))
            if random.random() < 0.1:
                front.node.of("a").die()

    front.child.act = misbehaves
    disturbance = asyncio.create_task(disturbs())
    found: list[tuple[list[str], list[int]]] = []
    for _ in range(8):
        found += await asyncio.gather(*(anybody(front, random, ids) for _ in range(8)))
    disturbance.cancel()
    await asyncio.wait({disturbance})
    front.child.act = sends(OK)
    await eventually(lambda: not front.running)
    by_id: dict[str, list[Record]] = {}
    for record in told:
        by_id.setdefault(record.id, []).append(record)
    assert all(len(records) == 1 for records in by_id.values())
    heads = b"\r\n".join(each.head for each in front.child.received).lower().split(b"\r\n")
    received = {line[14:].decode() for line in heads if line.startswith(b"x-request-id: ")}
    assert received & set(ids) <= by_id.keys()
    for sent, statuses in found:
        for id, status in zip(sent, statuses, strict=False):
            assert by_id[id][0].status == status, by_id[id]
    assert await client.ask(post(CHAT, body_of()))
    await eventually(lambda: front.pool.request_counts() == (0, 0))
