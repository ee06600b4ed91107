"""What is read of a child's answer, whatever the child sends and however slowly it is read."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from pathlib import Path

import pytest

from router.errors import UpstreamFailed
from router.wire.response import Response
from router.wire.upstream import Upstream
from tests.clock import Clock
from tests.sockets import Flood, Server, take
from tests.wire.rig import (
    CHUNKED,
    OK,
    Completions,
    answering,
    ask,
    closing,
    ended,
    ok_then_closing,
    send,
    sent_on_kept,
    whole,
)


@pytest.mark.parametrize(
    ("method", "answer", "body"),
    [
        ("POST", OK, b"ok"),
        (
            "POST",
            CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            b"abcde",
        ),
        ("POST", CHUNKED + b"1\r\na\r\n0\r\nX-Trailer: 1\r\n\r\n", b"a"),
        ("POST", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        ("POST", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b""),
        ("HEAD", CHUNKED, b""),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
async def test_bodies_of_every_framing_are_read(
    upstream: Upstream, server: Server, method: str, answer: bytes, body: bytes, bytewise: bool
) -> None:
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            await take(reader)
            for part in (answer[i : i + 1] for i in range(len(answer))) if bytewise else (answer,):
                writer.write(part)
                await asyncio.sleep(0)

    async with server.running(handler):
        for _ in range(3):
            response = await ask(upstream, server, method, b"{}" if method == "POST" else b"")
            assert await whole(response) == body
            assert not {b"link", b"x-trailer"} & dict(response.headers).keys()
        assert server.connections == 1


async def test_a_body_is_read_in_the_pieces_in_which_it_was_sent(upstream: Upstream, server: Server) -> None:
    async with server.running(answering(CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")):
        response = await ask(upstream, server)
        pieces = []
        while found := await response.read_pieces():
            pieces += found
        assert (pieces, response.is_at_end, await response.read()) == ([b"abc", b"de"], True, b"")


async def test_a_body_without_length_ends_with_its_connection(upstream: Upstream, server: Server) -> None:
    async with server.running(closing(b"HTTP/1.1 200 OK\r\n\r\nas long as it takes")):
        assert await whole(await ask(upstream, server)) == b"as long as it takes"


async def test_an_answer_with_a_known_head_has_its_own_length(upstream: Upstream, server: Server) -> None:
    """The length is not remembered with the head."""
    heads = (b"HTTP/1.1 200 OK\r\nX-A: b\r\n", b"HTTP/1.1 404 Not Found\r\n", b"HTTP/1.1 200 OK\r\nX-A: c\r\n")
    sent = [(head, b"x" * length) for length in (3, 1, 0, 11, 3) for head in heads]
    answers = [head + b"Content-Length: %d\r\n\r\n" % len(body) + body for head, body in sent]
    async with server.running(answering(*answers)):
        for head, body in sent:
            response = await ask(upstream, server)
            assert (response.status, response.headers[:-1]) == (
                (404, []) if b"404" in head else (200, [(b"x-a", head[-3:-2])])
            )
            assert response.headers[-1] == (b"content-length", b"%d" % len(body))
            assert await whole(response) == body
        assert server.connections == 1


async def test_an_answer_to_head_has_no_body_though_its_head_is_known(upstream: Upstream, server: Server) -> None:
    async with server.running(answering(OK, OK[:-2], OK)):
        assert await whole(await ask(upstream, server)) == b"ok"
        response = await ask(upstream, server, "HEAD", b"")
        assert await whole(response) == b""
        assert (b"content-length", b"2") in response.headers
        assert await whole(await ask(upstream, server)) == b"ok"
        assert server.connections == 1


async def test_bytes_behind_the_body_are_no_part_of_it_though_the_head_is_known(
    upstream: Upstream, server: Server
) -> None:
    async with server.running(answering(OK, OK + b"rubbish")):
        for count in (1, 1, 2):
            assert await whole(await ask(upstream, server)) == b"ok"
            assert server.connections == count


@pytest.mark.parametrize(
    ("first", "later"),
    [(OK[:-1], OK[-1:]), (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\no" % (1 + len(OK)), OK)],
)
async def test_a_body_that_comes_in_pieces_is_read_though_the_head_is_known(
    upstream: Upstream, server: Server, first: bytes, later: bytes
) -> None:
    """The second case is a body that looks like a known answer itself."""

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await take(reader)
        writer.write(first)
        await rest_is_due.wait()
        writer.write(later)

    rest_is_due = asyncio.Event()
    async with server.running(handler):
        assert await whole(await ask(upstream, server)) == b"ok"
        response = await ask(upstream, server)
        assert await response.read() == b"o"
        rest_is_due.set()
        assert await whole(response) == later


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
async def test_a_child_that_ends_before_its_answer_is_a_failure(
    upstream: Upstream, server: Server, answer: bytes
) -> None:
    async with server.running(closing(answer)):
        with pytest.raises(UpstreamFailed, match="before it answered") as caught:
            await ask(upstream, server)
        assert caught.value.retry_after
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"9\r\nabc",
    ],
)
async def test_a_child_that_ends_in_its_answer_is_a_failure(upstream: Upstream, server: Server, answer: bytes) -> None:
    async with server.running(closing(answer)):
        response = await ask(upstream, server)
        assert await response.read() == b"abc"
        with pytest.raises(UpstreamFailed, match="middle"):
            await response.read()
        assert not response.is_at_end


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 20_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
    ],
)
async def test_hostile_heads_are_a_failure(upstream: Upstream, server: Server, answer: bytes) -> None:
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(answer)
        assert await reader.read() == b""  # Upstream closes the connection

    async with server.running(handler):
        with pytest.raises(UpstreamFailed, match=r"HTTP|head"):
            await ask(upstream, server)


async def test_a_bad_chunk_is_a_failure(upstream: Upstream, server: Server) -> None:
    answer = CHUNKED + b"3\r\nabc\r\nzz\r\n"
    async with server.running(answering(answer)):
        response = await ask(upstream, server)
        assert await response.read() == b"abc"
        with pytest.raises(UpstreamFailed, match="HTTP"):
            await response.read()


async def test_a_silent_child_is_a_failure(server: Server) -> None:
    upstream = Upstream(read_timeout=0.05)
    async with server.running(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")):
        response = await ask(upstream, server)
        assert await response.read() == b"abc"
        with pytest.raises(UpstreamFailed, match="--timeout"):
            await response.read()


async def test_a_slow_reader_is_not_silence(server: Server) -> None:
    upstream = Upstream(read_timeout=0.5)
    requested = asyncio.Event()

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
        await requested.wait()
        writer.write(b"de")

    async with server.running(handler):
        response = await ask(upstream, server)
        assert await response.read() == b"abc"
        await asyncio.sleep(1.5)  # the reader is slow, for three timeouts
        requested.set()
        assert await whole(response) == b"de"
    await ended(upstream)


@pytest.mark.parametrize("pause", [60.0, 160.0])
@pytest.mark.parametrize("is_awaited", [False, True])
def test_silence_counts_from_the_last_sign_of_this_answer(tmp_path: Path, pause: float, is_awaited: bool) -> None:
    """One timer serves all answers of a connection: the answer before, and the time between, do not count."""

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await take(reader)
        for part in (CHUNKED, b"1\r\na\r\n", b"1\r\nb\r\n", b"0\r\n\r\n"):
            await asyncio.sleep(pause)
            writer.write(part)

    async def scenario() -> None:
        upstream, server, loop = (
            Upstream(read_timeout=100.0, idle_timeout=500.0),
            Server(tmp_path / "s"),
            asyncio.get_running_loop(),
        )
        async with server.running(handler):
            assert await whole(await ask(upstream, server)) == b"ok"
            await asyncio.sleep(70)
            response = send(upstream, server)
            assert response is not None
            if is_awaited:
                completions = Completions(response)
                await completions.first.wait()
                assert (response.complete_body() is None) == (pause > 100)
            if pause < 100:
                assert await whole(await response.wait_for_head()) == b"ab"
                assert loop.time() == pytest.approx(70 + 4 * pause)
            else:
                with pytest.raises(UpstreamFailed, match="--timeout"):
                    await response.wait_for_head()
                assert loop.time() == pytest.approx(170)
        await ended(upstream)

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


async def test_a_slow_reader_holds_the_child_back(upstream: Upstream, server: Server) -> None:
    flood = Flood(64 * 2**20)
    async with server.running(flood):
        response = await ask(upstream, server)
        total = len(await response.read())
        await flood.blocked.wait()
        assert flood.sent < 4 * 2**20
        while part := await response.read():
            total += len(part)
        assert total == flood.size


@pytest.mark.parametrize("when", ["before the head", "in the body", "by cancelling"])
async def test_closing_cuts_the_connection_at_once(upstream: Upstream, server: Server, when: str) -> None:
    requested, cut = asyncio.Event(), asyncio.Event()

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        if when == "in the body":
            writer.write(CHUNKED + b"3\r\nabc\r\n")
        requested.set()
        assert await reader.read() == b""
        cut.set()

    async with server.running(handler):
        if when == "in the body":
            response = await ask(upstream, server)
            response.close()
            response.close()
        else:
            task = asyncio.create_task(ask(upstream, server))
            await requested.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.wait_for(cut.wait(), 2)


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nas long as it takes", b"as long as it takes"),
    ],
)
async def test_on_complete_is_called_when_the_answer_is_whole(
    upstream: Upstream, server: Server, answer: bytes, body: bytes, bytewise: bool
) -> None:
    counts = []

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await take(reader)
        for part in (answer[i : i + 1] for i in range(len(answer))) if bytewise else (answer,):
            writer.write(part)
            counts.append(completions.count)
            for _ in range(3):
                await asyncio.sleep(0)

    async with server.running(handler):
        response = await sent_on_kept(upstream, server)
        completions = Completions(response)
        await completions.first.wait()
        assert response.complete_body() == body
        assert completions.count == 1
        assert not any(counts), "not before all of it was there"
        assert await whole(await response.wait_for_head()) == body
        response.close()
        assert completions.count == 1


async def test_on_complete_may_send_on_the_same_connection(upstream: Upstream, server: Server) -> None:
    done = asyncio.Event()
    responses: list[Response] = []

    def send_next(response: Response | None) -> None:
        assert response is not None
        responses.append(response)
        response.on_complete = done.set if len(responses) == 50 else lambda: send_next(send(upstream, server))

    async with server.running(answering()):
        send_next(await sent_on_kept(upstream, server))
        await asyncio.wait_for(done.wait(), 10)
        assert [response.complete_body() for response in responses] == [b"ok"] * 50
        assert server.connections == 1


@pytest.mark.parametrize("sent", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"SSH-2.0\r\n", b"HTTP/1.1 2"])
async def test_on_complete_is_called_for_a_failure(upstream: Upstream, server: Server, sent: bytes) -> None:
    async with server.running(ok_then_closing(sent)):
        response = await sent_on_kept(upstream, server)
        completions = Completions(response)
        await completions.first.wait()
        assert (completions.count, response.complete_body()) == (1, None)
        with pytest.raises(UpstreamFailed):
            await whole(await response.wait_for_head())
        assert completions.count == 1


async def test_on_complete_is_called_for_an_answer_too_long_to_hold(upstream: Upstream, server: Server) -> None:
    flood = Flood(16 * 2**20)

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await flood(reader, writer)

    async with server.running(handler):
        response = await sent_on_kept(upstream, server)
        completions = Completions(response)
        await completions.first.wait()
        assert response.complete_body() is None
        await flood.blocked.wait()
        assert flood.sent < 4 * 2**20
        assert len(await whole(await response.wait_for_head())) == flood.size
        assert completions.count == 1
