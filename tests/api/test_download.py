"""Pulls end with the truth: with the files, or with an error that says why they are not here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from router import errors
from router.api.download import Downloads, FileProgress
from router.hub.progress import DownloadProgress
from router.models.spec import ModelSpec
from router.proxy.gateway import Gateway
from router.wire.upstream import Upstream
from tests.pool.bench import Bench, FakeHub, hub_bench
from tests.waiting import eventually


class KnownNames:
    """The names that a hub knows are those of the catalog."""

    async def find(self, name: str, token: str | None = None) -> str:
        return name

    def lend_token(self, model: str, token: str | None) -> None:
        pass

    def take_back_token(self, model: str) -> None:
        pass

    async def remove(self, spec: ModelSpec) -> int:
        return 0


def downloads(bench: Bench) -> Downloads:
    return Downloads(Gateway(bench.pool, Upstream(), hub_models=KnownNames()))  # type: ignore[arg-type]


async def pulled(found: Downloads, name: str = "a") -> list[FileProgress]:
    return [part async for part in found.pull(name)]


async def _rest(pull: AsyncIterator[FileProgress]) -> None:
    async for _ in pull:
        pass


async def arrive(bench: Bench, hub: FakeHub) -> None:
    hub.gates["a"].set_result(None)


async def fail(bench: Bench, hub: FakeHub) -> None:
    hub.gates["a"].set_exception(errors.InsufficientDisk("the disk is full"))


async def unload(bench: Bench, hub: FakeHub) -> None:
    bench.pool.unload("a")


async def end(bench: Bench, hub: FakeHub) -> None:
    bench.pool.end()


async def leave_nothing(bench: Bench, hub: FakeHub) -> None:
    hub.arrive = lambda name: asyncio.sleep(0)  # type: ignore[method-assign]
    hub.gates["a"].set_result(None)


@pytest.mark.parametrize(
    ("way_out", "error", "words"),
    [
        (arrive, None, ""),
        (fail, errors.InsufficientDisk, "the disk is full"),
        (unload, errors.Cancelled, "was cancelled"),
        (end, errors.Cancelled, "shutting down"),
        (leave_nothing, errors.UpstreamFailed, "still not there"),
    ],
)
@pytest.mark.parametrize("is_slow", [False, True])
async def test_every_way_out_of_a_pull_says_whether_the_files_are_here(
    way_out: Callable[[Bench, FakeHub], Awaitable[None]],
    error: type[errors.RouterError] | None,
    words: str,
    is_slow: bool,
) -> None:  # B-H4
    """Of two clients, one may read so slowly that it misses the news of the end."""
    async with hub_bench("a") as (b, hub):
        pulls = [downloads(b).pull("a") for _ in range(2)]
        for each in pulls:
            first = asyncio.ensure_future(anext(each))
            await hub.until_begun("a")
            assert (await first).completed == 5
        rest: list[asyncio.Task[Any]] = [asyncio.create_task(_rest(pulls[0]))]
        await asyncio.sleep(0)
        if is_slow:
            for number in range(1100):
                b.pool.feed.publish("other", "status_change", number)
            await way_out(b, hub)
            await eventually(lambda: not b.pool.downloads.is_fetching("a"))
            rest.append(asyncio.create_task(_rest(pulls[1])))
        else:
            rest.append(asyncio.create_task(_rest(pulls[1])))
            await asyncio.sleep(0)
            await way_out(b, hub)
        for task in rest:
            if error is None:
                assert await task is None
            else:
                with pytest.raises(error, match=words):
                    await task
        assert repr(b.pool.feed) == "<Feed 0 subscribers>"


async def test_a_pull_that_missed_news_goes_on() -> None:  # B-H4
    async with hub_bench("a") as (b, hub):
        pull = asyncio.create_task(pulled(downloads(b)))
        await hub.until_begun("a")
        for number in range(3):
            for _ in range(1100):
                b.pool.feed.publish("other", "status_change", number)
            await asyncio.sleep(0)
        hub.on_progress(DownloadProgress("http://hub/file", 10, 10, "0" * 64))
        await eventually(lambda: repr(b.pool.feed) == "<Feed 1 subscribers>")
        assert not pull.done()
        hub.gates["a"].set_result(None)
        assert [part.completed for part in await pull][:1] == [5]


async def test_a_client_that_leaves_cancels_nothing_for_another() -> None:  # B-H4
    async with hub_bench("a") as (b, hub):
        leaving, staying = (asyncio.create_task(pulled(downloads(b))) for _ in range(2))
        await hub.until_begun("a")
        leaving.cancel()
        await asyncio.wait({leaving})
        hub.gates["a"].set_result(None)
        assert (await staying)[-1].completed == 5


async def test_a_pull_goes_on_with_a_download_that_begins_again() -> None:  # B-H4
    async with hub_bench("a") as (b, hub), b.pool.feed.subscribe() as news:
        first = asyncio.create_task(pulled(downloads(b)))
        await hub.until_begun("a")
        b.pool.unload("a")
        hub.gates.clear()
        b.pool.downloads.pull("a")
        await hub.until_begun("a")
        hub.gates["a"].set_result(None)
        await first
        events = [item["event"] for _ in range(4) if (item := await news.next(1))]
        assert "download_failed" in events, "a client of /models/sse is not left waiting"


async def test_a_download_that_failed_before_is_no_error_of_the_next() -> None:  # B-H4
    async with hub_bench("a") as (b, hub):
        for way_out, error in ((fail, errors.InsufficientDisk), (unload, errors.Cancelled), (arrive, None)):
            hub.gates.clear()
            pull = asyncio.create_task(pulled(downloads(b)))
            await hub.until_begun("a")
            await way_out(b, hub)
            if error is None:
                await pull
            else:
                with pytest.raises(error):
                    await pull
