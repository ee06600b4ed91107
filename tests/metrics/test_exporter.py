"""A scrape, of a pool on a machine without processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from router.events.kinds import Reload
from router.hub.progress import DownloadProgress
from router.memory.need import Need
from router.metrics import exporter as exporters
from router.metrics.exporter import Exporter
from router.metrics.exposition import OPENMETRICS, TEXT, Format
from router.metrics.lag import EVERY_S, LoopLag
from router.models.catalog import Catalog
from router.pool.downloads import repo_name
from router.records.record import Record
from router.records.records import Records
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand, Device
from router.scheduling.states import State
from router.wire.upstream import Upstream
from tests.fakes import GIB
from tests.metrics.scrapes import Sample, check_with_promtool, find, needs_promtool, read
from tests.pool.bench import RAM, Bench, bench, hub_bench, spec
from tests.waiting import eventually

P = "llama_router_"
CUDA = "local/CUDA0"


@dataclass
class Watched:
    bench: Bench
    exporter: Exporter
    records: Records

    async def text(self, form: Format = TEXT) -> str:
        return b"".join([piece async for piece in self.exporter.scrape(form)]).decode()

    async def samples(self, form: Format = TEXT) -> list[Sample]:
        return read(await self.text(form), form)

    async def value(self, name: str, **labels: str) -> float:
        return find(await self.samples(), P + name, **labels)

    async def states(self) -> dict[str, str]:
        found = [each for each in await self.samples() if each.name == f"{P}model_state"]
        assert {each.value for each in found} <= {0, 1}
        models = {each.labels["model"] for each in found}
        assert len(found) == len(models) * len(State)
        on = [(each.labels["model"], each.labels["state"]) for each in found if each.value]
        assert len(on) == len(models)
        return dict(on)


@asynccontextmanager
async def watched(*models: str, **more: object) -> AsyncIterator[Watched]:
    async with bench(*models, **more) as b:
        records = Records()
        exporter = Exporter(b.pool, records, Upstream(), version="1.2.3", engine="fake", engine_build="b1")
        yield Watched(b, exporter, records)


def model_labels(samples: list[Sample]) -> set[str]:
    return {each.labels["model"] for each in samples if "model" in each.labels}


@pytest.mark.parametrize("form", Format)
async def test_a_router_that_did_nothing_yet(form: Format) -> None:
    async with watched("a", "b") as w:
        samples = await w.samples(form)
        assert find(samples, f"{P}build_info", version="1.2.3", engine="fake", engine_build="b1") == 1
        assert find(samples, f"{P}memory_total_bytes", device=RAM, node="local") == 64 * GIB
        assert find(samples, f"{P}memory_free_bytes", device=RAM) == 64 * GIB
        assert find(samples, f"{P}memory_margin_bytes", device=RAM) == GIB
        assert find(samples, f"{P}memory_other_bytes", device=RAM) == 0
        assert find(samples, f"{P}start_time_seconds") > 1_700_000_000
        assert find(samples, "process_resident_memory_bytes") > 2**20
        assert find(samples, "process_cpu_seconds_total") > 0
        assert find(samples, "process_open_fds") > 2
        assert model_labels(samples) == set()


async def test_states_requests_and_memory_of_a_model() -> None:  # B-O4
    async with watched("a", "b", "c", need=40 * GIB) as w:
        w.bench.node.autoload = False
        request = asyncio.create_task(w.bench.lease("a"))
        await eventually(lambda: w.bench.node.children)
        assert await w.states() == {"a": "loading"}
        assert await w.value("requests_waiting", model="a") == 1
        w.bench.node.of("a").load()
        lease = await request
        other = asyncio.create_task(w.bench.lease("b"))
        await eventually(lambda: w.bench.pool.status("b").waiting)
        assert await w.states() == {"a": "loaded", "b": "unloaded"}
        assert await w.value("requests_active", model="a") == 1
        assert await w.value("requests_waiting", model="b") == 1
        assert await w.value("queue_entries") == 1
        assert await w.value("queue_oldest_seconds") > 0
        assert await w.value("memory_booked_bytes", model="a", device=RAM, node="local") == 40 * GIB
        assert await w.value("memory_estimated_bytes", model="a", device=RAM) == 40 * GIB
        assert await w.value("memory_other_bytes", device=RAM) == 0
        lease.release()
        await eventually(lambda: len(w.bench.node.children) == 2)
        w.bench.node.of("b").load()
        (await other).release()
        assert await w.states() == {"a": "unloaded", "b": "loaded"}
        samples = await w.samples()
        assert find(samples, f"{P}queue_entries") == find(samples, f"{P}queue_oldest_seconds") == 0
        assert {each.labels["model"] for each in samples if each.name == f"{P}memory_booked_bytes"} == {"b"}


async def test_a_state_between_two_scrapes_is_not_missed() -> None:
    """A model that was started and failed meanwhile is neither running nor was it."""
    async with watched("a") as w:
        await w.states()
        await w.bench.use("a")
        w.bench.node.of("a").die()
        await eventually(lambda: w.bench.state("a") is State.FAILED)
        assert await w.states() == {"a": "failed"}


async def test_a_client_that_gave_up_waits_no_more() -> None:
    async with watched("a", "b", need=40 * GIB) as w:
        lease = await w.bench.lease("a")
        waiting = asyncio.create_task(w.bench.lease("b"))
        await eventually(lambda: w.bench.pool.status("b").waiting)
        for _ in range(2):
            assert await w.value("requests_waiting", model="b") == 1
        waiting.cancel()
        await asyncio.wait({waiting})
        assert await w.value("requests_waiting", model="b") == 0
        assert await w.states() == {"a": "loaded", "b": "unloaded"}
        lease.release()


async def test_a_model_that_left_and_came_back_has_a_state() -> None:
    """Between two scrapes, and in the same state as before."""
    async with watched("a", "b") as w:
        await w.bench.use("a")
        assert await w.states() == {"a": "loaded"}
        await w.bench.pool.exchange.replace(Catalog((w.bench.specs["b"],)))
        await eventually(lambda: "a" not in w.bench.pool.processes.runs)
        await w.bench.pool.exchange.replace(Catalog(tuple(w.bench.specs.values())))
        await w.bench.use("a")
        assert await w.states() == {"a": "loaded"}


async def test_memory_of_other_programs() -> None:
    async with watched("a") as w:
        w.bench.node.foreign[RAM] = 10 * GIB
        await w.bench.use("a")
        await w.bench.pool.snapshot()
        assert await w.value("memory_other_bytes", device=RAM) == 10 * GIB
        assert await w.value("memory_free_bytes", device=RAM) == 24 * GIB


async def test_a_lost_device_has_no_free_memory() -> None:
    async with watched("a") as w:
        w.bench.node.devices = (*w.bench.node.devices, Device("local", "CUDA0", "gpu", 8 * GIB))
        w.bench.node.lost[CUDA] = 'it is "gone"\n'
        samples = await w.samples()
        assert find(samples, f"{P}device_lost", device=CUDA, reason='it is "gone"\n') == 1
        assert find(samples, f"{P}memory_total_bytes", device=CUDA) == 8 * GIB
        assert not [each for each in samples if each.name == f"{P}memory_free_bytes" and each.labels["device"] == CUDA]
        w.bench.node.lost.clear()
        await w.bench.pool.snapshot()
        (lost,) = [
            each for each in await w.samples() if each.name == f"{P}device_lost" and each.labels["device"] == CUDA
        ]
        assert (lost.labels["reason"], lost.value) == ("", 0)


async def test_memory_that_comes_back() -> None:
    limits = Limits(margins={RAM: GIB, CUDA: GIB}, drain_grace=0.05)
    async with watched("a", "b", need=lambda _: Need(Demand(split=6 * GIB)), limits=limits) as w:
        w.bench.node.held = {name: {CUDA: 6 * GIB} for name in "ab"}
        w.bench.node.devices = (*w.bench.node.devices, Device("local", "CUDA0", "gpu", 8 * GIB))
        await w.bench.use("a")
        assert not [each for each in await w.samples() if each.name == f"{P}settle_seconds_count"]
        await w.bench.use("b")
        assert await w.value("settle_seconds_count", device=CUDA) >= 1


async def test_bytes_downloaded() -> None:
    async with hub_bench("m") as (b, hub):
        exporter = Exporter(b.pool, Records(), Upstream())
        w = Watched(b, exporter, Records())
        b.pool.downloads.pull("m")
        await hub.until_begun("m")
        assert await w.value("downloads_active") == 1
        for done in (7, 10):
            hub.on_progress(DownloadProgress("http://hub/file", done, 10, "0" * 64))
            assert await w.value("download_bytes_total", repo="user/m") == done - 5
        hub.gates["m"].set_result(None)
        await eventually(lambda: not b.pool.downloads.running)
        assert await w.value("downloads_active") == 0
        assert await w.value("download_bytes_total", repo="user/m") == 5


@pytest.mark.parametrize(
    ("flag", "source", "expected"),
    [
        ("--hf-repo", "user/repo:Q4_K_M", "user/repo"),
        ("--model-url", "https://name:secret@example.org/x.gguf?token=secret", "example.org"),
        ("--docker-repo", "ai/smollm2:135M", "ai/smollm2"),
    ],
)
def test_no_secret_of_an_address_becomes_a_label(flag: str, source: str, expected: str) -> None:  # B-T7
    assert repo_name(spec("m", flag, source)) == expected
    assert repo_name(spec("m", "--model", "m.gguf")) == repo_name(None) == ""


async def test_records_are_counted() -> None:
    async with watched("a") as w:
        w.records.begin(b"1", "/v1/models", "openai").end(404, "unknown_model")
        running = w.records.begin(b"2", "/v1/chat/completions", "openai")
        running.model = "a"
        running.end(200, None, b'{"usage": {"prompt_tokens": 3, "completion_tokens": 5}}')
        assert await w.value("requests_total", model="a", code="200", dialect="openai") == 1
        assert await w.value("tokens_generated_total", model="a") == 5
        assert await w.value("errors_total", kind="unknown_model") == 1


async def test_series_go_with_the_catalog() -> None:
    """Also where no event says so, and while the process of a model that has left still runs."""
    async with watched("a", "b") as w:
        await w.bench.use("a")
        await w.bench.use("b")
        assert model_labels(await w.samples()) == {"a", "b"}
        lease = await w.bench.lease("a")
        await w.bench.pool.exchange.replace(Catalog((w.bench.specs["b"],)))
        samples = await w.samples()
        assert {each.labels["model"] for each in samples if each.name == f"{P}requests_active"} == {"b"}
        assert find(samples, f"{P}memory_booked_bytes", model="") == 30 * GIB
        lease.release()
        await eventually(lambda: "a" not in w.bench.pool.processes.runs)
        assert model_labels(await w.samples()) <= {"b", ""}
        await w.bench.pool.exchange.replace(Catalog(tuple(w.bench.specs.values())))
        w.bench.pool.journal.emit(Reload(added=1))
        await w.bench.use("a")
        assert await w.states() == {"a": "loaded", "b": "loaded"}


async def test_series_go_with_a_model_that_turned_out_to_be_none() -> None:
    """No event tells of it."""
    async with watched("a", "b") as w:
        await w.bench.use("a")
        await w.bench.use("b")
        assert model_labels(await w.samples()) == {"a", "b"}
        w.bench.pool.exchange.adopt_descriptions(Catalog((w.bench.specs["b"],)), of=w.bench.pool.catalog)
        assert model_labels(await w.samples()) <= {"b", ""}


async def test_a_scrape_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many models there are: others have turns while the text is made, and it is handed out in pieces."""
    names = [f"model-{number}" for number in range(2000)]
    monkeypatch.setattr(exporters, "SLICE_S", 0.0)
    async with watched(*names) as w:
        for name in names:
            running = w.records.begin(name.encode(), "/v1/chat/completions", "openai")
            running.model = name
            running.end(200)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        others = asyncio.create_task(count())
        sizes = [len(piece) async for piece in w.exporter.scrape(TEXT)]
        others.cancel()
        assert sum(sizes) > 5_000_000
        assert max(sizes) < 500_000
        assert turns > 2000, "one for each model whose state is read, and for each block"


async def test_what_changes_during_a_scrape_does_not_break_it() -> None:
    names = [f"model-{number}" for number in range(200)]
    async with watched(*names) as w:

        def use(name: str, number: int) -> None:
            running = w.records.begin(f"{name}{number}".encode(), "/v1/chat/completions", "openai")
            running.model = name
            running.end(200)

        for name in names[:100]:
            use(name, 0)
        pieces = []
        async for piece in w.exporter.scrape(OPENMETRICS):
            pieces.append(piece)
            for number, name in enumerate(names):
                use(name, number + 1)
            w.exporter.metrics.registry.forget("model", set(names[:10]))
        read(b"".join(pieces).decode(), OPENMETRICS)


@needs_promtool
async def test_promtool_has_nothing_against_a_scrape() -> None:
    async with watched("a", "b", limits=Limits(margins={RAM: GIB}, models_max=1)) as w:
        check_with_promtool(await w.text())
        await w.bench.use("a")
        await w.bench.use("b")
        w.bench.node.of("b").die()
        await eventually(lambda: w.bench.state("b") is State.FAILED)
        check_with_promtool(await w.text())


async def test_the_lag_of_the_loop() -> None:
    lag = LoopLag()
    assert lag.most() == 0
    lag.start()
    loop = asyncio.get_running_loop()
    end = loop.time() + 2 * EVERY_S
    while loop.time() < end:  # nothing else runs meanwhile
        pass
    await eventually(lambda: lag.most() > 0)
    assert lag.most() >= EVERY_S * 0.9
    lag.stop()
    assert "LoopLag" in repr(lag)


def test_a_record_is_as_the_tally_reads_it() -> None:
    fields = set(Record.__struct_fields__)
    assert {"prompt_seconds", "generation_seconds", "waited", "ttft", "cached", "background"} <= fields
