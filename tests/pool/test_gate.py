"""Small requests go into a model that serves and out of it; the books are those of all requests."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import replace

import pytest

from router.events.journal import Entry
from router.events.kinds import Granted, Released
from router.models.catalog import Catalog
from router.pool.gate import Gate
from router.pool.settings_patch import SettingsPatch
from router.scheduling.states import State
from tests.clock import Clock
from tests.fakes import GIB
from tests.pool.bench import Bench, bench
from tests.waiting import eventually


async def open_gate(b: Bench, name: str = "a") -> Gate:
    await b.use(name)
    gate = b.pool.gate(b.pool.catalog.resolve(name))
    assert gate is not None
    return gate


def leases(b: Bench, name: str = "a") -> int:
    return b.pool.status(name).leases


async def test_a_request_is_in_the_books_from_its_beginning_to_its_end() -> None:  # B-S2
    async with bench("a", "b", need=40 * GIB) as b:
        assert b.pool.gate(b.specs["a"]) is None, "nothing runs"
        gate = await open_gate(b)
        first, second = (gate.enter(background=each) for each in (False, True))
        assert first
        assert second not in (0, first)
        assert leases(b) == 2
        asked = asyncio.create_task(b.lease("b"))  # there is no room beside it
        await eventually(lambda: not b.is_open("a"))
        assert not gate.enter(background=False), "it drains"
        assert leases(b) == 2
        gate.leave(second)
        lease = gate.lease(first)
        assert (lease.model, lease.address, lease.key) == ("a", gate.address, gate.key)
        assert not asked.done()
        lease.release()
        lease.release()
        (await asyncio.wait_for(asked, 5)).release()
        assert (b.state("a"), leases(b)) == (State.UNLOADED, 0)


async def test_an_old_gate_lets_nobody_in() -> None:
    async with bench("a") as b:
        gate = await open_gate(b)
        b.pool.unload("a")
        await eventually(lambda: b.state("a") is State.UNLOADED)
        assert not gate.enter(background=False)
        new = await open_gate(b)
        assert not gate.enter(background=False), "another process runs"
        ticket = new.enter(background=False)
        assert ticket
        new.leave(ticket)
        ticket, run = new.enter(background=False), b.pool.processes.runs["a"]
        load = asyncio.create_task(b.pool.settings.load("a", SettingsPatch({"ctx_size": 4096})))
        await eventually(lambda: not new.is_current())
        assert b.pool.processes.runs["a"] is run, "it waits for the request"
        new.leave(ticket)
        await load
        assert not new.enter(background=False), "it has other settings"
        newest = await open_gate(b)
        await b.pool.exchange.replace(Catalog([replace(b.specs["a"], aliases=("x",))]))
        assert not newest.enter(background=False), "the catalog is another one"
        last = await open_gate(b)
        b.pool.end()
        assert not last.enter(background=False), "the router ends"


@pytest.mark.parametrize("end", ["unloaded", "crashed", "reloaded"])
async def test_who_remembers_a_gate_holds_neither_its_process_nor_its_catalog(end: str) -> None:
    async with bench("a") as b:
        remembered = [weakref.ref(await open_gate(b)) for _ in range(2)]
        assert remembered[0]() is remembered[1]() is not None, "one for all"
        if end == "unloaded":
            b.pool.unload("a")
        elif end == "crashed":
            (await b.use("a")).die()
        else:
            await b.pool.exchange.replace(Catalog([replace(b.specs["a"], aliases=("x",))]))
            await open_gate(b)
        await eventually(lambda: remembered[0]() is None)


def test_what_a_model_stays_for_is_what_holds_now() -> None:  # B-C6
    async def scenario() -> None:
        async with bench("a", ttl=100.0) as b:
            gate = await open_gate(b)

            def stays() -> float | None:
                ticket = gate.enter(background=False)
                assert ticket
                gate.leave(ticket)
                return b.pool.status("a").expires_in

            assert stays() == pytest.approx(100)
            (await b.pool.lease(b.specs["a"], ttl=20.0)).release()
            assert stays() == pytest.approx(20)
            b.pool.pins.set(b.specs["a"], True)
            assert stays() is None
            b.pool.pins.set(b.specs["a"], None)
            assert stays() == pytest.approx(20)
            await asyncio.sleep(15)
            assert stays() == pytest.approx(20), "it counts as a use"
            await b.until_gone("a")

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


async def test_who_listens_to_requests_hears_of_these_too() -> None:  # B-O1
    async with bench("a") as b:
        gate, heard = await open_gate(b), list[Entry]()
        b.pool.journal.subscribe(heard.append, Granted, Released)
        ticket = gate.enter(background=False)
        gate.leave(ticket)
        assert [(type(entry.event), entry.event.model) for entry in heard] == [(Granted, "a"), (Released, "a")]
