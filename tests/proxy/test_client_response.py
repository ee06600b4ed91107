"""Events are sent whole, so an error can follow them; other responses are cut off."""

from __future__ import annotations

import json

import pytest

from router.proxy.client_response import MAX_EVENT_BYTES
from tests.proxy.rig import EVENTS, Front, chunk, saying
from tests.sockets import Server


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("rest", [b"", b"d", b'data: {"x":', b'data: {"x": 1}', b'data: {"x": 1}\n'])
async def test_broken_stream_ends_with_an_error_event(
    front: Front, child: Server, end: bytes, rest: bytes
) -> None:  # B-C4
    whole = b"data: 1" + end + b": note" + end + b"data: 2" + end
    parts = [chunk(whole[:9]), chunk(whole[9:20]), chunk(whole[20:] + rest[:3])]
    if rest[3:]:
        parts.append(chunk(rest[3:]))
    async with child.running(saying(EVENTS, *parts)):
        client = await front.send()
        body = await client.body()  # properly ended
    assert body.startswith(whole)
    told = body.removeprefix(whole)
    assert told.startswith(b"data: ")
    assert told.endswith(b"\n\n")
    assert "in the middle" in json.loads(told[6:])["told"]


@pytest.mark.parametrize("own", [b"", b"X-Accel-Buffering: yes\r\n", b"x-accel-buffering: no\r\n"])
async def test_proxies_are_told_to_keep_no_event_back(front: Front, child: Server, own: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n%b\r\n" % own
    async with child.running(saying(head, b"data: 1\n\n")):
        answer = await front.send()
        await answer.body()
        assert answer.headers["x-accel-buffering"] == "no"


async def test_unfinished_event_at_the_end_is_passed_on(front: Front, child: Server) -> None:
    async with child.running(saying(EVENTS, chunk(b"data: 1\n\nda"), chunk(b"ta: 2"), b"0\r\n\r\n")):
        assert await (await front.send()).body() == b"data: 1\n\ndata: 2"


async def test_stream_with_a_length_can_end_with_an_error_event(front: Front, child: Server) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99\r\n\r\n"
    async with child.running(saying(head, b"data: 1\n\n", b"da")):
        body = await (await front.send()).body()
    assert body.startswith(b'data: 1\n\ndata: {"told"')


@pytest.mark.parametrize("head", [b"Content-Length: 99", b"Transfer-Encoding: chunked"])
async def test_broken_json_response_is_cut_off(front: Front, child: Server, head: bytes) -> None:
    async with child.running(saying(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % head, b'5\r\n{"a":\r\n')):
        assert await (await front.send()).cut()


async def test_broken_endless_event_is_cut_off(front: Front, child: Server) -> None:
    async with child.running(saying(EVENTS, chunk(b"data: " + b"x" * MAX_EVENT_BYTES), chunk(b"yy"))):
        assert await (await front.send()).cut()
