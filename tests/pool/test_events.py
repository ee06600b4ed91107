"""Which events a pool makes of what happens, with which numbers; and the line of the log that each becomes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from router import errors
from router.events import kinds
from router.events.kinds import AnyEvent
from router.events.sentences import sentence
from router.models.catalog import Catalog
from router.node.interface import Slept, Woke
from router.scheduling.causes import Cause
from router.scheduling.limits import Limits
from tests.clock import Clock
from tests.events.replay import EVERY_KIND, Replay
from tests.fakes import GIB
from tests.pool.bench import RAM, Bench, bench, closing, hub_bench, refused, spec
from tests.waiting import eventually

HELD = {RAM: 30 * GIB}


class Heard:
    """All events of a pool, and what is logged of them."""

    def __init__(self, b: Bench) -> None:
        self.all: list[AnyEvent] = []
        self.replay = Replay(b.pool)
        b.pool.journal.subscribe(lambda entry: self.all.append(entry.event), *EVERY_KIND)

    def of(self, *kinds: type[AnyEvent]) -> list[AnyEvent]:
        return [event for event in self.all if isinstance(event, kinds)]

    @property
    def kinds(self) -> list[str]:
        return [event.KIND for event in self.all if event.IS_SHOWN]


def jumping(scenario: Callable[[Bench, Heard], Awaitable[None]], *models: str, limits: Limits | None = None) -> None:
    """Run it with a clock that jumps to whatever happens next."""

    async def run() -> None:
        async with closing(Bench(*models, limits=limits)) as b:
            heard = Heard(b)
            await asyncio.sleep(1)  # a process that was ready at 0 looks like one that is not
            await scenario(b, heard)
            await asyncio.sleep(1)
            assert heard.replay.wrong == []

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(run())


def test_an_eviction_explains_itself() -> None:  # B-O1
    async def scenario(b: Bench, heard: Heard) -> None:
        await b.use("a")
        await asyncio.sleep(5)
        await b.use("b")
        await asyncio.sleep(7)
        await b.use("c")
        [event] = heard.of(kinds.Evict)
        assert isinstance(event, kinds.Evict)
        idle = event.idle or 0.0
        assert 12 < idle < 12.2
        free, missing = {RAM: 3 * GIB}, {RAM: 27 * GIB}
        assert event == kinds.Evict(
            "a", 1, Cause.MEMORY, "room for c", "c", HELD, free, {RAM: GIB}, missing, HELD, idle, 0
        )
        [gone] = heard.of(kinds.Exited)
        assert isinstance(gone, kinds.Exited)
        assert (gone.model, gone.cause, gone.why, gone.freed) == ("a", Cause.MEMORY, "room for c", HELD)
        assert heard.kinds == ["start", "ready", "start", "ready", "evict", "start", "ready"]
        told = next(entry.as_json for entry in b.pool.journal.since(0) if entry.event is event)
        assert (told["for"], told["reason"], told["numbers"]["missing"]) == ("c", "memory", missing)
        assert told["text"] == (
            "stopping (room for c), 27.0 GiB on local/RAM missing, frees 30.0 GiB on local/RAM; idle for 12 s"
        )

    jumping(scenario, "a", "b", "c")


def test_an_eviction_for_a_slot_says_so() -> None:
    async def scenario(b: Bench, heard: Heard) -> None:
        await b.use("a")
        await b.use("b")
        [event] = heard.of(kinds.Evict)
        assert isinstance(event, kinds.Evict)
        assert (event.cause, event.missing, event.wanted_by) == (Cause.COUNT, {}, "b")

    jumping(scenario, "a", "b", limits=Limits(models_max=1, margins={RAM: GIB}))


def test_a_wait_and_a_drain_are_told_once_with_who_is_in_the_way() -> None:  # B-O1
    limits = Limits(margins={RAM: GIB}, drain_grace=3, drain_timeout=10)

    async def scenario(b: Bench, heard: Heard) -> None:
        leases = [await b.lease("a"), await b.lease("a")]
        other = await b.lease("b")
        waiting = asyncio.create_task(b.use("c"))
        again = asyncio.create_task(b.use("c"))
        await asyncio.sleep(5)
        blocked = asyncio.create_task(b.use("a"))
        await asyncio.sleep(20)
        await asyncio.gather(waiting, again)
        for lease in leases:
            lease.release()
        other.release()
        await blocked
        waits = [event for event in heard.of(kinds.Wait) if isinstance(event, kinds.Wait)]
        assert [(event.model, event.waits_for) for event in waits] == [("c", "drain_grace"), ("a", "behind")]
        assert "waits for a to finish 2 requests" in waits[0].why
        assert waits[0].missing == {RAM: 27 * GIB}
        drain = heard.of(kinds.Drain)[0]
        assert isinstance(drain, kinds.Drain)
        assert (drain.wanted_by, drain.freed) == ("c", HELD)
        ended = heard.of(kinds.DrainEnded)[0]
        assert isinstance(ended, kinds.DrainEnded)
        assert (ended.model, round(ended.seconds)) == (drain.model, 10)
        [evict] = heard.of(kinds.Evict)[:1]
        assert isinstance(evict, kinds.Evict)
        assert (evict.model, evict.requests, evict.idle) == (drain.model, drain.requests, None)
        assert "which waited 10 s" in evict.why

    jumping(scenario, "a", "b", "c", limits=limits)


def test_the_causes_of_stops() -> None:  # B-O1
    async def scenario(b: Bench, heard: Heard) -> None:
        pool, gone = b.pool, replace(b.specs["b"], ttl=60.0)
        await b.use("a")
        pool.unload("a")
        await pool.exchange.replace(Catalog((b.specs["a"], gone)))
        await b.use("b")
        await asyncio.sleep(100)
        await b.use("b")
        await pool.exchange.replace(Catalog((b.specs["a"],)))
        await asyncio.sleep(1)
        await b.use("a")
        await pool.exchange.replace(Catalog((spec("a", "--ctx-size", "2048"),)))
        await asyncio.sleep(1)
        await b.use("a")
        await pool.close()
        stops = [event for event in heard.of(*kinds.STOPS) if isinstance(event, kinds.Stop | kinds.Expire)]
        assert [(event.model, event.cause) for event in stops] == [
            ("a", Cause.UNLOAD),
            ("b", Cause.TTL),
            ("b", Cause.REMOVED),
            ("a", Cause.SETTINGS),
            ("a", Cause.SHUTDOWN),
        ]
        assert [event.KIND for event in stops] == ["stop", "ttl", "stop", "stop", "stop"]
        assert all(event.freed == HELD and event.idle is not None for event in stops)
        reloads = [event for event in heard.of(kinds.Reload) if isinstance(event, kinds.Reload)]
        assert [(each.added, each.changed, each.removed) for each in reloads] == [(0, 0, 0), (0, 0, 1), (0, 1, 0)]

    jumping(scenario, "a", "b")


async def test_crashes_failed_loads_and_refusals(caplog: pytest.LogCaptureFixture) -> None:  # B-O1
    async with bench("a", limits=Limits(margins={RAM: GIB}, backoff_max=60)) as b:
        heard = Heard(b)
        lease = await b.lease("a")
        b.node.of("a").die(-11, "it was killed by signal 11")
        await eventually(lambda: heard.of(kinds.Crash))
        lease.release()
        b.node.autoload = False
        request = asyncio.create_task(b.use("a"))
        await eventually(lambda: b.node.alive)
        b.node.of("a").die(1, "a bad file" + "!" * 5000)
        await refused(request, errors.LoadFailed)
        await refused(b.use("a"), errors.BackingOff)
        [crash] = heard.of(kinds.Crash)
        assert crash == kinds.Crash("a", 1, "it was killed by signal 11", HELD, -11, 1)
        [failed] = heard.of(kinds.LoadFailed)
        assert isinstance(failed, kinds.LoadFailed)
        assert (failed.exit_code, failed.will_retry, len(failed.why)) == (1, False, 2003)
        assert 0.5 < (failed.retry_after or 0.0) <= 1
        refusals = [event for event in heard.of(kinds.Refused) if isinstance(event, kinds.Refused)]
        assert [event.refusal for event in refusals] == ["load_failed", "backing_off"]
        assert all(len(event.why) == 2003 for event in refusals)
        assert heard.replay.wrong == []
    assert caplog.text.count("a: it was killed by signal 11") == 1


async def test_sleep_is_told_once() -> None:
    async with bench("a") as b:
        heard = Heard(b)
        child = await b.use("a")
        for event in (Slept(), Slept(), Woke(), Woke()):
            child.launch.on_event(event)
        await asyncio.sleep(0)
        assert [event.KIND for event in heard.of(kinds.Slept, kinds.Woke)] == ["sleep", "wake"]
        assert heard.replay.wrong == []


def test_devices_that_are_lost_and_memory_that_others_take() -> None:  # B-O1
    limits = Limits(margins={RAM: 4 * GIB}, pressure_poll=1.0, stops_for_others=True)

    async def scenario(b: Bench, heard: Heard) -> None:
        await b.use("a")
        await b.use("b")
        b.node.lost[RAM] = "it has fallen off the bus"
        await asyncio.sleep(5)
        b.node.lost.clear()
        await asyncio.sleep(5)
        b.node.foreign[RAM] = 3 * GIB
        await asyncio.sleep(5)
        events = heard.of(kinds.DeviceLost, kinds.DeviceFound, kinds.Pressure, kinds.PressureEnded)
        assert events == [
            kinds.DeviceLost(RAM, "it has fallen off the bus"),
            kinds.DeviceFound(RAM),
            kinds.Pressure(RAM, {RAM: GIB}, {RAM: 4 * GIB}, True),
            kinds.PressureEnded(RAM),
        ]
        [stop] = heard.of(kinds.Stop)
        assert isinstance(stop, kinds.Stop)
        assert (stop.model, stop.cause, stop.missing) == ("a", Cause.PRESSURE, {RAM: 3 * GIB + GIB // 4})

    jumping(scenario, "a", "b", limits=limits)


def test_each_event_that_operators_see_is_one_line(caplog: pytest.LogCaptureFixture) -> None:  # B-O1
    caplog.set_level(logging.INFO, "router")

    async def scenario(b: Bench, heard: Heard) -> None:
        for name in "abcabc":
            await b.use(name)
        b.pool.unload("a")
        await asyncio.sleep(1)
        told = [event for event in heard.all if event.IS_SHOWN or isinstance(event, kinds.Exited)]
        assert [record.getMessage() for record in caplog.records] == [
            f"{event.model}: {sentence(event)}" for event in told
        ]
        assert len(told) > 15

    jumping(scenario, "a", "b", "c")


def test_a_request_is_heard_of_only_by_those_who_listen() -> None:
    async def scenario(b: Bench, heard: Heard) -> None:
        await b.use("a")
        first = await b.lease("a")
        first.release()
        requests = heard.of(*kinds.PER_REQUEST)
        assert [event.KIND for event in requests] == ["joined", "granted", "released", "granted", "released"]
        granted = [event.seconds for event in requests if isinstance(event, kinds.Granted)]
        assert granted[0] >= granted[1] == 0.0

    jumping(scenario, "a")


async def test_each_way_in_which_a_download_ends() -> None:  # B-O1
    async with hub_bench("a") as (b, hub):
        heard = Heard(b)
        request = asyncio.create_task(b.lease("a"))
        await hub.until_begun("a")
        hub.gates["a"].set_exception(errors.HubUnavailable("the hub is busy"))
        await refused(request, errors.HubUnavailable)
        request = asyncio.create_task(b.lease("a"))
        await eventually(lambda: len(hub.begun) == 2)
        b.pool.unload("a")
        await refused(request, errors.Cancelled)
        request = asyncio.create_task(b.lease("a"))
        await eventually(lambda: len(hub.begun) == 3)
        hub.gates["a"].set_result(None)
        (await request).release()
        downloads = [event for event in heard.of(kinds.Download) if isinstance(event, kinds.Download)]
        assert [(event.step, event.why) for event in downloads] == [
            ("started", ""),
            ("failed", "the hub is busy"),
            ("started", ""),
            ("cancelled", ""),
            ("started", ""),
            ("finished", ""),
        ]
        assert heard.replay.wrong == []
