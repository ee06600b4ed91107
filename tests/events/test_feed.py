"""News reaches every subscriber, and a slow one costs only itself."""

from __future__ import annotations

import pytest

from router.events.feed import Feed


async def test_all_subscribers_get_all_news_from_then_on() -> None:
    feed = Feed()
    feed.publish("a", "status_change", 0)
    async with feed.subscribe() as one, feed.subscribe() as other:
        feed.publish("a", "status_change", 1)
        for news in (one, other):
            assert await news.next() == {"model": "a", "event": "status_change", "data": 1}
            with pytest.raises(TimeoutError):
                await news.next(0.01)


async def test_a_subscriber_that_falls_behind_is_disconnected() -> None:
    feed = Feed(backlog=2)
    async with feed.subscribe() as slow, feed.subscribe() as quick:
        for number in range(4):
            feed.publish("a", "status_change", number)
            assert (await quick.next() or {})["data"] == number
        assert [(await slow.next() or {}).get("data") for _ in range(3)] == [0, 1, None]


async def test_a_subscription_ends_with_its_block() -> None:
    feed = Feed(backlog=1)
    async with feed.subscribe() as news:
        pass
    feed.publish("a", "status_change", 1)
    with pytest.raises(TimeoutError):
        await news.next(0.01)


async def test_closing_ends_every_subscription() -> None:
    feed = Feed()
    async with feed.subscribe() as one, feed.subscribe() as other:
        feed.close()
        assert [await one.next(), await other.next()] == [None, None]
