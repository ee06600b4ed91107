"""Listeners: how often they hear, what they do not hear twice, and what becomes of one that does not read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from starlette.types import Message

from router.api.dashboard.board import MAX_EVENTS, MAX_PATCHES, Board
from router.api.dashboard.requests import LiveRequests
from router.api.dashboard.stream import BEAT_S, EVERY_S, MAX_LISTENERS, STALLED_S, Listeners, StateStream
from router.errors import Unavailable
from router.models.catalog import Catalog
from router.records.records import Records
from router.server.uvicorn_protocol import ABORT
from tests.api.dashboard.listener import Listener
from tests.clock import Clock
from tests.pool.bench import Bench, bench, spec


def on_a_clock(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


def listeners_of(b: Bench, records: Records | None = None) -> Listeners:
    board = Board(b.pool, records or Records(), "llama-server", "b1", clock=lambda: b.pool.facts.now())
    return Listeners(board, b.pool.feed)


def pin(b: Bench, pinned: bool | None, name: str = "a") -> None:
    b.pool.pins.set(b.pool.catalog.resolve(name), pinned)


@contextlib.asynccontextmanager
async def hearing(messages: AsyncGenerator[bytes], takes: float = 0.0) -> AsyncGenerator[Listener]:
    """A listener that takes all that comes, each message in so many seconds."""
    listener = Listener()

    async def hear() -> None:
        async with contextlib.aclosing(messages):
            async for message in messages:
                listener.hear(message)
                await asyncio.sleep(takes)

    task = asyncio.create_task(hear())
    yield listener
    task.cancel()
    await asyncio.wait({task})


def test_who_listens_hears_five_times_a_second_at_most_and_a_beat_in_silence() -> None:
    async def scenario() -> None:
        async with bench("a") as b, hearing(listeners_of(b).messages(), takes=0.02) as listener:
            await asyncio.sleep(1)
            seen = len(listener.heard)
            assert set(listener.heard) == {"state"}  # again when the first reading had found the devices
            for n in range(100):
                pin(b, n % 2 == 0)
                await asyncio.sleep(0.01)
            assert 4 <= len(listener.heard) - seen <= 6
            await asyncio.sleep(EVERY_S)
            assert len(listener.events) == 100
            seen = len(listener.heard)
            await asyncio.sleep(BEAT_S * 3.5)
            assert listener.heard[seen:] == ["beat"] * 3

    on_a_clock(scenario)


def test_who_comes_back_hears_the_events_that_it_has_missed() -> None:
    async def scenario() -> None:
        async with bench("a") as b:
            listeners = listeners_of(b)
            for n in range(3):
                pin(b, n % 2 == 0)
            for since, expected in ((None, []), (3, []), (1, [2, 3]), (0, [1, 2, 3]), (99, [1, 2, 3])):
                async with hearing(listeners.messages(since)) as listener:
                    await asyncio.sleep(1)
                    assert [event["seq"] for event in listener.events] == expected
            for n in range(600):
                pin(b, n % 2 == 1)
            async with hearing(listeners.messages(0)) as listener:
                await asyncio.sleep(1)
                assert [event["seq"] for event in listener.events] == list(range(104, 604))  # a gap shows
            assert listeners.count == 0

    on_a_clock(scenario)


def test_models_that_come_or_leave_bring_the_state_anew() -> None:
    async def scenario() -> None:
        async with bench("a", "b") as b, hearing(listeners_of(b).messages()) as listener:
            await asyncio.sleep(1)
            listener.heard.clear()
            await b.pool.exchange.replace(Catalog([spec("b"), spec("c")]))
            await asyncio.sleep(1)
            assert listener.heard == ["state", "patch"]  # the patch has the event
            assert listener.events[-1]["kind"] == "reload"
            assert [model["id"] for model in listener.state["models"]] == ["b", "c"]
            await b.pool.exchange.replace(Catalog([spec("c"), spec("b")]))
            await asyncio.sleep(1)
            assert [model["id"] for model in listener.state["models"]] == ["c", "b"]
            await b.pool.exchange.replace(Catalog([spec("c", aliases=("gpt",)), spec("b")]))
            await asyncio.sleep(1)
            assert listener.heard[-2:] == ["patch", "patch"]
            assert listener.heard.count("state") == 2
            assert listener.state["models"][0]["aliases"] == ["gpt"]

    on_a_clock(scenario)


def test_a_client_that_does_not_read_costs_no_memory_and_is_let_go() -> None:  # B-W2
    async def scenario() -> None:
        async with bench("a") as b:
            listeners, sent, aborted = listeners_of(b), [], asyncio.Event()

            async def send(message: Message) -> None:
                sent.append(message)
                if len(sent) > 2:
                    await asyncio.Event().wait()

            async def receive() -> Message:
                await aborted.wait()
                return {"type": "http.disconnect"}

            answer = StateStream(listeners, None)
            began = asyncio.get_running_loop().time()
            scope = {"type": "http", "method": "GET", ABORT: aborted.set}
            call = asyncio.create_task(answer(scope, receive, send))
            async with hearing(listeners.messages()) as other:
                for n in range(200):
                    await asyncio.sleep(0.1)
                    pin(b, n % 2 == 0)
                await asyncio.sleep(1)
                assert len(other.events) == 200
                assert listeners.count == 2
                await call
                assert asyncio.get_running_loop().time() - began < STALLED_S + 2
                assert listeners.count == 1
            assert len(sent) == 3
            assert listeners.count == 0

    on_a_clock(scenario)


def test_clients_that_come_back_from_anywhere_cost_no_memory() -> None:  # B-W2
    """In an idle router nothing changes, so what was made for one listener is good for the next."""

    async def scenario() -> None:
        async with bench("a") as b:
            listeners = listeners_of(b)
            for n in range(1000):
                pin(b, n % 2 == 0)
            for since in range(0, 1000, 10):
                async with hearing(listeners.messages(since)) as listener:
                    await asyncio.sleep(1)
                    assert len(listener.events) == min(MAX_EVENTS, 1000 - since)
                assert len(listeners._board._patches[1]) <= MAX_PATCHES

    on_a_clock(scenario)


def test_many_clients_that_come_at_once_are_no_more_than_the_limit() -> None:  # B-W2
    async def scenario() -> None:
        async with bench("a") as b:
            listeners, left, tasks = listeners_of(b), asyncio.Event(), asyncio.all_tasks()

            async def send(message: Message) -> None:
                pass

            async def receive() -> Message:
                await left.wait()
                return {"type": "http.disconnect"}

            async def come(method: str) -> bool:
                try:
                    listeners.ensure_room()
                except Unavailable:
                    return False
                await StateStream(listeners, None)({"type": "http", "method": method}, receive, send)
                return True

            assert all(await asyncio.gather(*(come("HEAD") for _ in range(2 * MAX_LISTENERS))))
            calls = [asyncio.create_task(come("GET")) for _ in range(3 * MAX_LISTENERS)]
            await asyncio.sleep(1)
            assert listeners.count == MAX_LISTENERS
            left.set()
            assert sum(await asyncio.gather(*calls)) == MAX_LISTENERS
            assert await come("GET")
            assert listeners.count == 0
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == tasks

    on_a_clock(scenario)


def test_a_client_that_leaves_is_forgotten_and_a_head_is_answered() -> None:
    async def scenario() -> None:
        async with bench("a") as b:
            records, sent, left, tasks = Records(), [], asyncio.Event(), asyncio.all_tasks()
            listeners = listeners_of(b, records)

            async def send(message: Message) -> None:
                sent.append(message)

            async def receive() -> Message:
                await left.wait()
                return {"type": "http.disconnect"}

            await StateStream(listeners, None)({"type": "http", "method": "HEAD"}, receive, send)
            assert [message.get("body") for message in sent] == [None, b""]
            call = asyncio.create_task(StateStream(listeners, None)({"type": "http", "method": "GET"}, receive, send))
            await asyncio.sleep(1)
            assert listeners.count == 1
            assert records._subscribers
            left.set()
            await call
            await asyncio.sleep(0)
            assert listeners.count == 0
            assert asyncio.all_tasks() == tasks  # nobody looks again
            assert not records._subscribers

    on_a_clock(scenario)


def test_listeners_end_with_the_router_after_the_last_news() -> None:
    async def scenario() -> None:
        async with bench("a") as b:
            listeners = listeners_of(b)
            async with hearing(listeners.messages()) as listener:
                await asyncio.sleep(1)
                pin(b, True)
                b.pool.feed.close()
                await asyncio.sleep(1)
                assert listener.heard[-2:] == ["patch", "end"]
                assert [event["kind"] for event in listener.events] == ["pin"]
            assert listeners.count == 0
            async with hearing(listeners.messages()) as late:
                await asyncio.sleep(1)
                assert (late.heard[0], late.heard[-1]) == ("state", "end")

    on_a_clock(scenario)


class Answer:
    """A stream of a child."""

    def __init__(self) -> None:
        self.pieces = 0
        self.content_at: float | None = None
        self.is_stream, self.beginning, self.tail = True, b"", b""


def test_requests_are_told_by_phase_and_while_they_grow() -> None:
    async def scenario() -> None:
        records = Records()
        live = LiveRequests(records)
        records.begin(b"before-it-listens", "/x", "openai").end(200)
        live.begin()
        request, other = (records.begin(b"%d" % n, "/v1/chat/completions", "openai") for n in range(2))
        live.refresh(0.0)
        assert [b'"phase":"reading"' in told for told in live.since(0)] == [False, True, True]
        assert b'"phase":"done"' in live.since(0)[0]  # it ended before
        seen = live.count
        live.refresh(0.2)
        assert live.count == seen
        request.model, request.answer = "a", (answer := Answer())
        live.refresh(0.4)
        [told] = live.since(seen)
        assert b'"phase":"prompt"' in told
        for now, pieces, is_told in (
            (0.6, 1, False),
            (1.5, 9, True),
            (1.7, 10, False),
            (2.6, 10, True),
            (9, 10, False),
        ):
            seen, answer.pieces = live.count, pieces
            live.refresh(now)
            assert (live.count > seen) == is_told, now
        seen = live.count
        request.end(200)
        records.forget(other)
        live.refresh(10.0)
        ended, gone = live.since(seen)
        assert b'"phase":"done"' in ended
        assert gone == b'{"id":"1","gone":true}'
        assert live.since(live.count) == []
        for n in range(2000):
            records.begin(b"%016d" % n, "/x", "openai").end(200)
        assert len(live.since(0)) == 500
        live.end()
        seen = live.count
        records.begin(b"nobody-listens", "/x", "openai").end(200)
        assert live.count == seen
        assert live.since(0) == []

    asyncio.run(scenario())
