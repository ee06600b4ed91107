"""Clients share limits: idle connections and old unfinished requests go first."""

from __future__ import annotations

import asyncio
from functools import partial

from router.server.admission import ClientLimits
from tests.front import CHAT, Front, Works, body_of, post
from tests.server.test_framing import GET, connections, refused
from tests.waiting import eventually


async def test_silent_connections_make_room(front: Front) -> None:  # B-T4
    first = await front.ready(limits=ClientLimits(max_connections=16))
    silent = [await front.client() for _ in range(30)]
    for one in silent[-5:]:
        one.send(GET)
    latest = await front.client()
    assert (await latest.ask(GET + b"\r\n")).status == 200
    assert (await first.ask(GET + b"\r\n")).status == 200, "it has been answered before"
    assert len(connections(front)) <= 16


async def test_busy_connections_are_not_closed(front: Front) -> None:  # B-T4
    works = front.child.act = Works()
    await front.ready(limits=ClientLimits(max_connections=4))
    busy = []
    for count in range(1, 5):
        busy.append(await front.client())
        busy[-1].send(post(CHAT, body_of()))
        await eventually(partial(serves, front, count))
    late = await front.client()
    assert "--max-connections" in await refused(late, 503)
    works.go.set()
    assert [(await client.reply()).status for client in busy] == [200] * 4


async def test_connections_that_do_not_read_make_room(front: Front) -> None:  # B-T4
    first = await front.ready(limits=ClientLimits(max_connections=4, timeout=0.3))
    first.leave()
    await eventually(lambda: not connections(front))
    request = GET + b"\r\n"
    for _ in range(4):
        client = await front.client()
        client.send(request * 3000)
    await eventually(lambda: sum(one.flow.write_paused for one in connections(front)) == 4)
    statuses: list[int] = []
    while 200 not in statuses:
        assert len(statuses) < 500, "nobody made room"
        late = await front.client()
        statuses.append((await late.ask(request)).status)
        await asyncio.sleep(0.02)
    assert set(statuses) <= {200, 503}
    await eventually(lambda: len(connections(front)) <= 4)


async def test_unfinished_requests_are_limited(front: Front) -> None:  # B-T4
    """The limit is for all clients together."""
    client = await front.ready(limits=ClientLimits(max_buffered_bytes=200_000))
    others = [await front.client() for _ in range(10)]
    for other in others:
        other.send(GET + b"X: " + b"x" * 40_000)
        await front.turn()
    assert front.admission.buffered_bytes <= 200_000
    assert "come whole" in await refused(others[0], 503)
    assert (await client.ask(post(CHAT, body_of()))).status == 200
    for other in others:
        other.leave()
    await eventually(lambda: front.admission.buffered_bytes == 0)


async def test_oldest_unfinished_request_is_dropped(front: Front) -> None:  # B-T4
    """A new request that comes in pieces is served all the same. The request that began first is dropped, even if a
    little more of it comes now and then."""
    await front.ready(limits=ClientLimits(max_buffered_bytes=200_000))
    others, sent = [await front.client() for _ in range(4)], 0
    for other, data in zip([*others, others[0]], [GET + b"X: " + b"x" * 48_000] * 4 + [b"x" * 4000], strict=True):
        other.send(data)
        sent += len(data)
        await eventually(partial(holds, front, sent))
    client = await front.client()
    request = post(CHAT, body_of(text="x" * 20_000))
    client.send(request[:15_000])
    await front.turn()
    client.send(request[15_000:])
    assert (await client.reply()).status == 200
    assert "come whole" in await refused(others[0], 503)


def holds(front: Front, size: int) -> bool:
    return front.admission.buffered_bytes == size


def serves(front: Front, count: int) -> bool:
    return front.leases == count
