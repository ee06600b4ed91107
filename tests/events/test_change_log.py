"""Every change counts a version, and the models of the latest changes come first."""

from __future__ import annotations

from router.events.change_log import ChangeLog
from router.events.feed import Feed


async def test_models_that_changed_since_a_version_come_latest_first() -> None:
    log = ChangeLog(Feed())
    for model in ("a", "b", "a", "c"):
        log.mark_changed(model)
    assert list(log.since(0)) == ["c", "a", "b"]
    assert list(log.since(2)) == ["c", "a"]
    assert list(log.since(log.version)) == []


async def test_what_is_published_counts_as_a_change() -> None:
    log = ChangeLog(Feed())
    async with log.feed.subscribe() as news:
        log.publish("a", "status_change", 1)
        assert await news.next() == {"model": "a", "event": "status_change", "data": 1}
    assert list(log.since(0)) == ["a"]
