"""Downloads of missing models: begun, shown, aborted, failed."""

from __future__ import annotations

import asyncio

import pytest

from router import errors
from router.hub.progress import DownloadProgress
from router.models.catalog import Catalog
from router.pool.lease import Lease
from router.pool.settings_patch import SettingsPatch
from router.scheduling.limits import Limits
from router.scheduling.states import State
from tests.fakes import GIB
from tests.pool.bench import RAM, here, hub_bench, missing, refused
from tests.waiting import eventually


async def test_ten_requests_for_a_missing_model_are_one_download_and_one_load() -> None:  # B-H3
    async with hub_bench("a") as (b, hub), b.pool.feed.subscribe() as news:
        requests = [asyncio.create_task(b.lease("a")) for _ in range(10)]
        await hub.until_begun("a")
        status = b.pool.status("a")
        assert (status.value, status.waiting, status.held) == ("downloading", 10, {})
        assert status.progress
        assert status.progress.value == 0.5
        hub.gates["a"].set_result(None)
        for request in requests:
            (await request).release()
        assert (hub.begun, b.node.loads()) == (["a"], 1)
        published = [item["event"] for _ in range(5) if (item := await news.next(1))]
        assert published == ["status_change", "download_progress", "models_reload", "download_finished", "model_status"]


async def test_a_failed_download_is_refused_with_the_hubs_words() -> None:  # B-H4
    async with hub_bench("a") as (b, hub), b.pool.feed.subscribe() as news:
        requests = [asyncio.create_task(b.lease("a")) for _ in range(3)]
        await hub.until_begun("a")
        hub.gates["a"].set_exception(errors.HubUnavailable("the hub is busy", retry_after=33.0))
        for request in requests:
            error = await refused(request, errors.HubUnavailable)
            assert (error.message, error.retry_after) == ("the hub is busy", 33.0)
        assert (b.pool.status("a").failed, b.pool.status("a").failure) == (True, "the hub is busy")
        events = [item for _ in range(3) if (item := await news.next(1))]
        assert (events[-1]["event"], events[-1]["data"]["error"]) == ("download_failed", "the hub is busy")


async def test_a_download_without_a_model_has_failed() -> None:  # B-H4
    async with hub_bench("a") as (b, hub):
        hub.arrive = lambda name: asyncio.sleep(0)  # type: ignore[method-assign]
        request = asyncio.create_task(b.lease("a"))
        await hub.until_begun("a")
        hub.gates["a"].set_result(None)
        assert "still not there" in (await refused(request, errors.UpstreamFailed)).message


async def test_a_defect_of_the_hub_leaves_nothing_behind() -> None:
    async with hub_bench("a") as (b, hub):
        request = asyncio.create_task(b.lease("a"))
        await hub.until_begun("a")
        hub.gates["a"].set_exception(ZeroDivisionError())
        assert "a defect" in (await refused(request, errors.RouterError)).message
        assert b.state("a") is State.FAILED


async def test_a_model_that_was_given_up_while_the_hub_was_asked_is_not_unknown() -> None:  # B-H4
    async with hub_bench("a") as (b, _):
        assert b.pool.downloads.found("a").name == "a"
        with pytest.raises(errors.Cancelled, match="was cancelled"):
            b.pool.downloads.found("given/up:Q8_0")
        b.pool.end()
        with pytest.raises(errors.Cancelled, match="shutting down"):
            b.pool.downloads.found("given/up:Q8_0")


async def test_an_unload_aborts_a_download_and_its_late_progress_is_ignored() -> None:  # B-L10
    async with hub_bench("a") as (b, hub):
        request = asyncio.create_task(b.lease("a"))
        await hub.until_begun("a")
        late, gate = hub.on_progress, hub.gates.pop("a")
        b.pool.unload("a")
        assert hub.forgotten == ["a"]  # before another request can want it again
        await refused(request, errors.Cancelled)
        late(DownloadProgress("http://hub/file", 10, 10, "0" * 64))
        assert (b.pool.status("a").value, b.pool.downloads.files("a")) == ("unloaded", ())
        again = asyncio.create_task(b.lease("a"))
        await hub.until_begun("a")
        assert gate.cancelled()
        late(DownloadProgress("http://hub/file", 10, 10, "0" * 64))
        assert [part.done for part in b.pool.downloads.files("a")] == [5]
        hub.gates["a"].set_result(None)
        (await again).release()


async def test_an_abort_while_the_files_arrive() -> None:
    async with hub_bench("a") as (b, hub):
        request = asyncio.create_task(b.lease("a"))
        await hub.until_begun("a")
        hub.gates["a"].set_result(None)
        b.pool.unload("a")
        await refused(request, errors.Cancelled)
        await hub.arrive("a")
        await b.use("a")
        assert hub.begun == ["a"]


async def test_a_preset_that_names_another_repository_during_the_download() -> None:
    async with hub_bench("a") as (b, hub):
        request = asyncio.create_task(b.lease("a"))
        await hub.until_begun("a")
        old = hub.gates.pop("a")
        await b.pool.exchange.replace(Catalog([missing("a", "user/other:Q8_0")]))
        await hub.until_begun("a")
        assert old.cancelled()
        await b.pool.exchange.replace(Catalog([missing("a", "user/other:Q8_0", priority=1)]))
        assert not hub.gates["a"].cancelled(), "it is still the same"
        await b.pool.exchange.replace(Catalog([here("a", "user--third")]))
        (await request).release()
        assert hub.gates["a"].cancelled()
        assert hub.begun == ["a", "a"]


async def test_what_another_program_downloads_meanwhile_is_waited_for() -> None:
    async with hub_bench("a") as (b, hub):
        request = asyncio.create_task(b.lease("a"))
        await hub.until_begun("a")
        await hub.arrive("a")
        assert b.state("a") is State.DOWNLOADING
        hub.gates["a"].set_result(None)
        (await request).release()


async def test_a_model_that_leaves_the_catalog_aborts_its_download() -> None:
    async with hub_bench("a", "b") as (b, hub):
        request = asyncio.create_task(b.lease("a"))
        await hub.until_begun("a")
        await b.pool.exchange.replace(Catalog([missing("b")]))
        await refused(request, errors.Cancelled)
        await eventually(lambda: hub.gates["a"].cancelled())


async def test_downloads_that_wait_for_others_are_shown_and_bounded() -> None:
    limits = Limits(margins={RAM: GIB}, downloads_max=1)
    async with hub_bench("a", "b", "c", limits=limits) as (b, hub):
        b.pool.downloads.MAX_QUEUED = 1
        b.pool.downloads.pull("a")
        await hub.until_begun("a")
        before = b.pool.change_log.version
        b.pool.downloads.pull("b")
        assert b.pool.change_log.version > before
        assert (b.pool.status("b").value, hub.begun) == ("downloading", ["a"])
        with pytest.raises(errors.QueueFull):
            b.pool.downloads.pull("c")
        b.pool.downloads.pull("b")  # is not one more
        b.pool.unload("b")
        assert b.pool.status("b").value == "unloaded"
        b.pool.downloads.pull("c")
        hub.gates["a"].set_result(None)
        await hub.until_begun("c")
        assert hub.begun == ["a", "c"]


async def test_a_model_that_was_only_wanted_leaves_with_its_download() -> None:
    async with hub_bench("a", missing("user/m:Q8_0", source="cache")) as (b, hub):
        b.pool.downloads.pull("user/m:Q8_0")
        await hub.until_begun("user/m:Q8_0")
        b.pool.unload("user/m:Q8_0")
        assert [spec.name for spec in b.pool.catalog.models] == ["a"]


async def test_an_abandoned_download_is_forgotten_without_finish_loads() -> None:  # B-S16
    limits = Limits(margins={RAM: GIB}, downloads_max=1, finish_loads=False)
    async with hub_bench(*(missing(name, source="cache") for name in "abc"), limits=limits) as (b, hub):
        requests = [asyncio.create_task(b.lease(name)) for name in "aabc"]
        await hub.until_begun("a")
        await eventually(lambda: b.pool.downloads.is_fetching("c"))

        async def leave(request: asyncio.Task[Lease]) -> None:
            request.cancel()
            await asyncio.wait({request})

        await leave(requests[0])
        assert hub.forgotten == []
        await leave(requests[1])
        assert hub.forgotten == ["a"]
        await leave(requests[3])  # has not begun
        assert hub.forgotten == ["a", "c"]
        assert [spec.name for spec in b.pool.catalog.models] == ["b"]
        b.node.autoload = False
        await hub.until_begun("b")
        hub.gates["b"].set_result(None)
        await eventually(lambda: b.state("b") is State.LOADING)
        await leave(requests[2])
        assert hub.forgotten == ["a", "c"], "its files are here"
        assert [spec.name for spec in b.pool.catalog.models] == ["b"]


async def test_the_end_aborts_downloads() -> None:
    async with hub_bench("a", "b", limits=Limits(downloads_max=1)) as (b, hub):
        requests = [asyncio.create_task(b.lease(name)) for name in "ab"]
        await hub.until_begun("a")
        await b.pool.close()
        for request in requests:
            await refused(request, errors.Cancelled)
        assert (hub.gates["a"].cancelled(), hub.begun, hub.has_ended) == (True, ["a"], True)
        with pytest.raises(errors.Cancelled):
            b.pool.downloads.pull("a")


async def test_settings_hold_for_a_model_that_is_downloaded_first() -> None:  # B-L1
    async with hub_bench("a") as (b, hub):
        load = asyncio.create_task(b.pool.settings.load("a", SettingsPatch({"ctx_size": 512})))
        await hub.until_begun("a")
        hub.gates["a"].set_result(None)
        assert (await load).status == "loaded"
        assert "--ctx-size" in b.node.of("a").launch.args
        assert hub.begun == ["a"]
        assert b.pool.settings.requested("a").as_json()["ctx_size"] == 512


async def test_settings_that_are_refused_as_the_header_arrives_are_told() -> None:  # B-H4
    """That error is made of more than a sentence."""
    async with hub_bench("a") as (b, hub):
        request = asyncio.create_task(b.lease("a"))
        await hub.until_begun("a")
        hub.gates["a"].set_exception(errors.SettingsRefused("a", "its projector is another model's"))
        assert "its projector is another model's" in (await refused(request, errors.LoadFailed)).message
