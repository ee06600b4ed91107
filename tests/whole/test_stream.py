"""Streams that go on after their client has left, on both real engines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from router.errors import InvalidRequest, UnknownStream
from router.node.interface import Launch
from router.pool.lease import Lease
from router.proxy.conversation import Conversations
from router.wire.upstream import Upstream
from tests.conftest import Starter
from tests.fakes import FakeChild
from tests.routers import ENDLESS, ENDLESS_FLAGS, Router, chat
from tests.waiting import PATIENCE_S, until

T = TypeVar("T")


@pytest.fixture
def launch(engine: str, routers: Starter, tiny_models: Path) -> Callable[..., Router]:
    flags = ("--engine", engine, "--models-dir", str(tiny_models), *ENDLESS_FLAGS, "--slots")
    return lambda *more: routers(*flags, *more)


def say(tokens: int, **more: Any) -> dict[str, Any]:
    return chat("tiny-a", tokens, stream=True, ignore_eos=True, **more)


def begin(
    router: Router, id: str, tokens: int, model: str = "tiny-a", then: Callable[[], None] = lambda: None
) -> bytes:
    """Request a stream, read some of it, do something, and leave; returns what was read."""
    body = {**say(tokens), "model": model}
    headers = [(b"x-conversation-id", id.encode())]
    with router.client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status_code == 200
        read = next(response.iter_raw())
        then()
        return read


def follow(router: Router, id: str, start: int = 0, **more: Any) -> httpx.Response:
    return router.client.get("/v1/stream", params={"conv_id": id, "from": start}, **more)


def lookup(router: Router, *ids: str, **more: Any) -> dict[str, Any]:
    response = router.client.post("/v1/streams/lookup", json={"conversation_ids": ids}, **more)
    assert response.status_code == 200, response.text
    entries = response.json()
    return {entry["conversation_id"]: entry for entry in entries}


def sent(pool: ThreadPoolExecutor, ask: Callable[..., T], *args: Any) -> Future[T]:
    """Ask in a thread. Returns once the request has been sent: what is sent later comes later."""
    is_sent = threading.Event()

    def trace(event: str, info: object) -> None:
        if event == "http11.send_request_body.complete":
            is_sent.set()

    future = pool.submit(ask, *args, extensions={"trace": trace})
    assert is_sent.wait(PATIENCE_S)
    return future


def text(stream: bytes) -> str:
    events = [line[6:] for line in stream.decode().splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return "".join(c["delta"].get("content") or "" for event in events for c in json.loads(event)["choices"])


class Pause:
    """The only engine does nothing: it would be done with its stream before others have asked for anything."""

    def __init__(self, router: Router) -> None:
        (self._child,) = router.children()
        self._child.suspend()

    def end_when_waiting(self, router: Router) -> None:
        """Once a request for tiny-b waits. What was sent before it has come too."""
        until(lambda: router.figure("requests_waiting", "tiny-b") == 1)
        self._child.resume()


def is_busy(router: Router, model: str = "tiny-a") -> bool:
    slots = router.client.get("/slots", params={"model": model})
    return slots.status_code == 200 and any(slot["is_processing"] for slot in slots.json())


def test_each_client_that_comes_back_gets_the_rest_of_a_stream(launch: Callable[..., Router]) -> None:  # B-S3
    """Nothing of it is lost. No eviction cuts it off: a request for another model waits for its end."""
    router = launch("--models-max", "1", "--models-drain-grace", "0")
    whole = router.client.post("/v1/chat/completions", json=say(2000)).content
    with ThreadPoolExecutor() as pool:
        pauses: list[Pause] = []
        read = begin(router, "org/één & two", 2000, then=lambda: pauses.append(Pause(router)))
        follows = [sent(pool, follow, router, "org/één & two", start) for start in (0, len(read))]
        found = sent(pool, lookup, router, "org/één & two", "other")
        other = pool.submit(router.chat, "tiny-b")
        pauses[0].end_when_waiting(router)
        assert found.result().keys() == {"org/één & two"}
        answers = [each.result() for each in follows]
        assert other.result().status_code == 200
    assert [a.status_code for a in answers] == [200, 200]
    assert answers[0].headers["content-type"].startswith("text/event-stream")
    assert text(answers[0].content) == text(whole)
    assert answers[0].content[len(read) :] == answers[1].content
    assert router.loads() == 2
    gone = follow(router, "org/één & two")
    assert (gone.status_code, gone.json()["error"]["type"]) == (404, "not_found_error")
    assert lookup(router, "org/één & two") == {}
    assert router.loads() == 2, "nothing is loaded for a stream that is gone"


MESSAGES = [{"role": "user", "content": "hi"}]
TRANSLATED: dict[str, dict[str, Any]] = {
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 1900, "ignore_eos": True},
    "/v1/responses": {"input": "hi", "max_output_tokens": 1900},
    "/api/chat": {"messages": MESSAGES, "options": {"num_predict": 1900}},
    "/api/generate": {"prompt": "hi", "raw": True, "options": {"num_predict": 1900}},
}


@pytest.mark.parametrize("path", TRANSLATED)
def test_a_translated_stream_goes_on_too(launch: Callable[..., Router], path: str) -> None:
    """What the child keeps of it are its own events. A request for another model waits for its end."""
    router = launch("--models-max", "1", "--models-drain-grace", "0")
    body = {"model": "tiny-a", "stream": True, **TRANSLATED[path]}
    with router.client.stream("POST", path, json=body, headers={"x-conversation-id": "one"}) as response:
        assert response.status_code == 200
        next(response.iter_raw())
        pause = Pause(router)
    with ThreadPoolExecutor() as pool:
        following, found = sent(pool, follow, router, "one"), sent(pool, lookup, router, "one")
        other = pool.submit(router.chat, "tiny-b")
        pause.end_when_waiting(router)
        assert found.result().keys() == {"one"}
        kept = following.result()
        assert other.result().status_code == 200
    assert kept.status_code == 200
    assert b'"content"' in kept.content
    last = [line for line in kept.content.splitlines() if line.startswith(b"data: {")][-1]
    assert b'"timings"' in last or b'"usage"' in last, "it was generated to its end"
    assert router.loads() == 2


@pytest.mark.parametrize("path", TRANSLATED)
def test_a_translated_stream_without_an_id_ends_with_its_client(launch: Callable[..., Router], path: str) -> None:
    router = launch()
    body = {"model": "tiny-a", "stream": True, "ignore_eos": True, **TRANSLATED[path]}
    body = {**body, "max_tokens": ENDLESS, "max_output_tokens": ENDLESS}
    if "options" in body:
        body["options"] = {"num_predict": ENDLESS}
    with router.client.stream("POST", path, json=body) as response:
        assert response.status_code == 200
        next(response.iter_raw())
    until(lambda: not is_busy(router))
    assert lookup(router, "one") == {}


def test_a_stop_ends_a_stream(launch: Callable[..., Router]) -> None:
    router = launch()
    begin(router, "long", ENDLESS)
    begin(router, "long::b", ENDLESS)
    assert lookup(router, "long").keys() == {"long", "long::b"}
    assert is_busy(router)
    for _ in range(2):
        answer = router.client.delete("/v1/stream", params={"conv_id": "long"})
        assert (answer.status_code, answer.content) == (204, b"")
        router.client.delete("/v1/stream", params={"conv_id": "long::b"})
    until(lambda: not is_busy(router))
    until(lambda: router.figure("requests_active", "tiny-a") == 0)
    assert follow(router, "long").status_code == 404


def test_another_request_of_the_conversation_ends_the_one_before(launch: Callable[..., Router]) -> None:
    """Even if that was on another model."""
    router = launch()
    begin(router, "one", ENDLESS)
    begin(router, "one", ENDLESS, "tiny-b")
    until(lambda: not is_busy(router))
    assert is_busy(router, "tiny-b")
    begin(router, "one", 4, "tiny-b")
    until(lambda: not is_busy(router, "tiny-b"))
    assert text(follow(router, "one").content)


def test_without_a_stream_or_an_id_a_client_that_leaves_ends_its_request(launch: Callable[..., Router]) -> None:
    router = launch()
    assert router.chat("tiny-a").status_code == 200
    for more, name in (({}, "x-conversation-id: one\r\n"), ({"stream": True}, "")):
        body = json.dumps(chat("tiny-a", ENDLESS, ignore_eos=True, **more)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{name}content-length: {len(body)}\r\n\r\n"
        request = head.encode() + body
        until(partial(leaves_in_the_middle, router, request))
        # The engine looks for the client of a whole answer once nobody else has asked it anything for a second.
        until(lambda: not is_busy(router), every=1.5)
    assert lookup(router, "one") == {}


def leaves_in_the_middle(router: Router, request: bytes) -> bool:
    """A client that leaves as soon as its request is seen to run; False if it was answered before that."""
    url = httpx.URL(router.url)
    answer = b""
    with socket.create_connection((url.host, url.port)) as client:
        client.sendall(request)
        client.setblocking(False)
        while b'"length"' not in answer:
            if is_busy(router):
                return True
            with contextlib.suppress(BlockingIOError):
                answer += client.recv(65536)
    return False


def test_unknown_and_wrong_ids_have_their_errors(launch: Callable[..., Router]) -> None:
    router = launch()
    for method in ("GET", "DELETE"):
        assert router.client.request(method, "/v1/stream").status_code == 400
    assert follow(router, "nobody").status_code == 404
    assert router.client.delete("/v1/stream", params={"conv_id": "nobody"}).status_code == 204
    for content in (b"", b"{", b"[]", b'{"conversation_ids": 5}', b'{"conversation_ids": [1, null, ""]}', b"\xff"):
        assert router.client.post("/v1/streams/lookup", content=content).json() == []
    begin(router, "short", 4)
    until(lambda: lookup(router, "short")["short"]["is_done"])
    assert router.client.get("/v1/stream", params={"conv_id": "short", "from": "x"}).status_code == 400
    failed = router.client.post(
        "/v1/chat/completions", json={**say(4), "max_tokens": "many"}, headers={"x-conversation-id": "bad"}
    )
    assert failed.status_code == 400
    assert follow(router, "bad").status_code == 404


def test_a_stream_whose_model_loads_is_unavailable_and_can_be_stopped(
    routers: Starter, fake: str, tiny_models: Path
) -> None:
    """Followers should try again later. Another request of the conversation, or a stop, refuses the one that waits."""
    router = routers("--engine", fake, "--models-dir", str(tiny_models), FAKE_LOAD_SECONDS="600")
    with ThreadPoolExecutor() as pool:
        ask = pool.submit(
            lambda: router.client.post("/v1/chat/completions", json=say(4), headers={"x-conversation-id": "one"})
        )
        until(lambda: follow(router, "one").status_code == 503)
        until(lambda: router.status("tiny-a") == "loading")
        answer = follow(router, "one")
        assert (answer.headers["retry-after"], answer.json()["error"]["type"]) == ("1", "unavailable_error")
        second = pool.submit(
            lambda: router.client.post("/v1/chat/completions", json=say(4), headers={"x-conversation-id": "one"})
        )
        assert ask.result().status_code == 400, "another request of the conversation has taken its place"
        assert router.client.delete("/v1/stream?conv_id=one").status_code == 204
        answer = second.result()
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
        assert "cancelled" in answer.json()["error"]["message"]
    assert follow(router, "one").status_code == 404
    assert router.client.post("/models/unload", json={"model": "tiny-a"}).status_code == 200


def test_a_load_that_fails_leaves_no_stream(routers: Starter, fake: str, tiny_models: Path) -> None:
    router = routers("--engine", fake, "--models-dir", str(tiny_models), FAKE_FAIL="out of luck")
    for _ in range(2):
        answer = router.client.post("/v1/chat/completions", json=say(4), headers={"x-conversation-id": "one"})
        assert answer.status_code >= 500
        assert follow(router, "one").status_code == 404


# Conversations without a router


class Leases:
    """Leases of one child, and how many of them were released."""

    def __init__(self) -> None:
        self.released = 0
        self.ended = asyncio.Event()
        self._child = FakeChild(Launch("a", (), ()), autoload=True)

    def _release(self, used: bool) -> None:
        self.released += 1

    async def __call__(self) -> Lease:
        return Lease("a", self._child, self.ended, self._release)


async def test_the_last_part_gives_the_lease_back() -> None:  # B-S2
    leases, known, upstream = Leases(), Conversations(), Upstream()
    generating = await known.begin("one", leases, upstream)()
    follower, another = known.find("one").share(), known.find("one").share()
    generating.release()
    follower.release()
    assert leases.released == 0
    again = await known.begin("two", leases, upstream)()  # another stream, or the second attempt of this one
    another.release()
    assert leases.released == 1
    again.release()
    assert leases.released == 2
    late = known.find("one").share()
    late.release()
    assert leases.released == 2
    leases.ended.set()
    with pytest.raises(UnknownStream):
        known.find("one").share()


async def test_a_stop_at_the_moment_of_the_grant_gives_the_lease_back() -> None:  # B-S2
    leases, known, upstream = Leases(), Conversations(), Upstream()
    waiting = asyncio.ensure_future(known.begin("one", leases, upstream)())
    while (inner := known.find("one")._waiting) is None or not inner.done():
        await asyncio.sleep(0)
    await known.stop("one", upstream)
    with pytest.raises(InvalidRequest, match="cancelled"):
        await waiting
    assert leases.released == 1


async def test_the_oldest_ended_conversations_are_forgotten() -> None:
    leases, known, upstream = Leases(), Conversations(), Upstream()
    running = [await known.begin(str(n), leases, upstream)() for n in range(3)]
    for number in range(3, known.MAX_CONVERSATIONS + 3):
        (await known.begin(str(number), leases, upstream)()).release()
    assert [n for n in range(known.MAX_CONVERSATIONS + 3) if str(n) not in known._by_id] == [3, 4, 5]
    for part in running:
        part.release()
