"""What operators see: when a load or a download will have ended, what a device holds, and that time alone changes no
fact."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import pytest

from router import errors
from router.hub.progress import DownloadProgress
from router.node.interface import LoadProgress
from router.pool.device_facts import DeviceFacts, Held, device_facts
from router.pool.facts import ModelFacts
from router.scheduling.books import ModelRecord
from router.scheduling.resources import UNKNOWN_BYTES, Device, Reading
from router.scheduling.states import State
from tests.clock import Clock
from tests.fakes import GIB
from tests.pool.bench import RAM, Bench, bench, hub_bench


def on_a_clock(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


def facts_of(b: Bench, name: str = "a") -> ModelFacts:
    waiting = {entry.model: entry.requests for entry in b.pool.facts.queue()}
    found = b.pool.facts.of(name, waiting=waiting.get(name, 0))
    assert found
    return found


def seconds_left(b: Bench, name: str = "a") -> float | None:
    ends_at = facts_of(b, name).ends_at
    return None if ends_at is None else ends_at - b.pool.facts.now()


def test_a_load_ends_as_its_own_speed_says_or_as_the_last_one_did() -> None:
    async def scenario() -> None:
        async with bench("a") as b:
            b.node.autoload = False
            asked = asyncio.create_task(b.lease("a"))
            await asyncio.sleep(1)
            assert (facts_of(b).state, facts_of(b).progress, seconds_left(b)) == ("loading", 0.0, None)
            await asyncio.sleep(9)
            b.node.of("a").launch.on_event(LoadProgress("text_model", 0.25))
            assert seconds_left(b) == pytest.approx(30, abs=0.1)
            await asyncio.sleep(10)
            assert seconds_left(b) == pytest.approx(20, abs=0.1)
            b.node.of("a").load()
            (await asked).release()
            assert seconds_left(b) is None
            b.pool.unload("a")
            await b.until_gone("a")
            asked = asyncio.create_task(b.lease("a"))
            await asyncio.sleep(5)
            assert seconds_left(b) == pytest.approx(15, abs=0.1)
            assert facts_of(b).restarts == 1
            b.node.of("a").load()
            (await asked).release()

    on_a_clock(scenario)


def test_a_download_ends_as_its_speed_says() -> None:
    async def scenario() -> None:
        async with hub_bench("a") as (b, hub):
            asked = asyncio.create_task(b.lease("a"))
            await asyncio.sleep(1)
            first = facts_of(b)
            assert (first.state, first.progress, first.ends_at, first.waiting) == ("downloading", 0.5, None, 1)
            await asyncio.sleep(10)
            hub.on_progress(DownloadProgress("http://hub/file", 7, 10, "0" * 64))
            assert seconds_left(b) == pytest.approx(11 * 3 / 2, abs=2)
            hub.gates["a"].set_result(None)
            (await asked).release()

    on_a_clock(scenario)


def test_time_alone_changes_no_fact_of_a_model() -> None:
    async def scenario() -> None:
        async with bench("a", "b", "c", ttl=1000.0) as b:
            await b.use("a")
            lease = await b.lease("b")
            await asyncio.sleep(10)
            before = [facts_of(b, name) for name in "abc"]
            await asyncio.sleep(100)
            assert [facts_of(b, name) for name in "abc"] == before
            a, busy, quiet = before
            assert a.expires_at
            assert a.idle_since is not None
            assert (busy.leases, busy.expires_at, busy.idle_since) == (1, None, None)
            assert quiet.is_quiet
            assert quiet == ModelFacts("unloaded", None)
            asked = asyncio.create_task(b.lease("c"))
            b.pool.pins.set(b.specs["a"], True)
            b.pool.pins.set(b.specs["b"], True)
            await asyncio.sleep(1)
            queue = b.pool.facts.queue()
            await asyncio.sleep(100)
            assert b.pool.facts.queue() == queue
            assert [(entry.position, entry.model, entry.requests) for entry in queue] == [(1, "c", 1)]
            lease.release()
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked

    on_a_clock(scenario)


def test_a_model_that_fails_says_why_and_when_it_is_tried_again() -> None:
    async def scenario() -> None:
        async with bench("a") as b:
            b.node.autoload = False
            for failures in (1, 2):
                asked = asyncio.create_task(b.lease("a"))
                await asyncio.sleep(1)
                b.node.of("a").die(1, "out of luck")
                with pytest.raises(errors.LoadFailed):
                    await asked
                facts = facts_of(b)
                assert (facts.state, facts.failed, facts.error) == ("unloaded", True, "out of luck")
                assert (facts.failures, facts.retry_at is None) == (failures, failures == 1)
            b.pool.unload("a")
            assert facts_of(b).retry_at is None

    on_a_clock(scenario)


async def test_a_state_never_waits_for_a_device() -> None:
    async with bench("a") as b:
        await b.use("a")
        probes, hangs = len(b.node.probes), asyncio.Event()

        async def hang(expected: Mapping[str, int], enough: Mapping[str, int] | None = None) -> tuple[Reading, ...]:
            b.node.probes.append(expected)
            await hangs.wait()
            return ()

        b.node.probe = hang  # type: ignore[method-assign]
        b.pool.nodes._read_at = -1e9
        for _ in range(3):
            [ram] = b.pool.facts.devices()
            assert ram.held == (Held("a", 30 * GIB, "idle", 0),)
            await asyncio.sleep(0)
        assert len(b.node.probes) == probes + 1  # they share one
        hangs.set()


def test_devices_are_read_once_a_second_at_most_also_if_that_fails() -> None:
    async def scenario() -> None:
        async with bench("a") as b:
            for trouble in (0, 100):
                b.node.trouble.times["probe"] = trouble
                await asyncio.sleep(10)
                before = len(b.node.probes)
                for _ in range(50):
                    b.pool.facts.devices()
                    await asyncio.sleep(0.1)
                assert 4 <= len(b.node.probes) - before <= 6
            assert [device.key for device in b.pool.facts.devices()] == [RAM]

    on_a_clock(scenario)


GPU = Device("local", "CUDA0", "gpu", 24 * GIB)
LOADING, LOADED, STOPPING = State.LOADING, State.LOADED, State.STOPPING


def record(state: State, gib: float, **more: Any) -> ModelRecord:
    return ModelRecord(f"{state.value}-{gib:g}", state, held={GPU.key: int(gib * GIB)}, **more)


def other(free: float, *models: ModelRecord, before: float | None = None) -> float | None:
    others = {} if before is None else {GPU.key: int(before * GIB)}
    [device] = device_facts([Reading(GPU, int(free * GIB))], models, {}, {}, others)
    return None if device.other is None else device.other / GIB


def test_what_other_programs_hold() -> None:
    assert other(20) == 4
    assert other(20, record(LOADED, 3)) == 1
    assert other(20, record(LOADED, 5)) == 0  # it took less than was booked
    assert other(20, record(LOADED, 8, prompt_cache=6 * GIB)) == 2  # a promise does not show
    # Of what loads, a reading shows any part: what others hold is what it was.
    assert other(20, record(LOADING, 8), before=1) == 1
    assert other(14, record(LOADING, 8), before=1) == 2
    assert other(23.5, record(LOADING, 8), before=1) == 0.5
    assert other(10, record(LOADING, 8), record(LOADED, 4), before=1) == 2
    assert other(20, record(STOPPING, 8), before=1) == 1
    assert other(20, record(State.SLEEPING, 8), before=1) == 4


def test_devices_that_cannot_be_read() -> None:
    lost, unknown = Reading(GPU, None, "it has fallen off the bus"), replace(GPU, total=UNKNOWN_BYTES)
    [one, other] = device_facts(
        [lost, Reading(unknown, 5)], [record(LOADED, 2, leases={1})], {GPU.key: GIB}, {GPU.key: 1}, {}
    )
    held = (Held("loaded-2", 2 * GIB, "busy", 0),)
    assert one == DeviceFacts(
        GPU.key, "CUDA0", "", "local", "gpu", 24 * GIB, None, GIB, None, True, "it has fallen off the bus", held
    )
    assert (other.total, other.free, other.other) == (None, 5, None)


@pytest.mark.parametrize("state", [State.SLEEPING, State.LOADING, State.STOPPING])
def test_what_a_process_does_about_its_memory(state: State) -> None:
    [device] = device_facts([Reading(GPU, GIB)], [record(state, 2)], {}, {}, {})
    assert device.held == (Held(f"{state.value}-2", 2 * GIB, state.value, 2 * GIB if state is State.SLEEPING else 0),)
    assert RAM not in device.key
