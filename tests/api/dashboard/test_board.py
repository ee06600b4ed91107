"""The state that is kept says what a new one would; and patches make the one out of the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest

from router.api.dashboard.board import Board
from router.api.dashboard.stream import EVERY_S, Listeners
from router.pool.pool import Pool
from router.records.records import Records
from tests.api.dashboard import schemas
from tests.api.dashboard.listener import Listener, assert_same
from tests.api.dashboard.schemas import check
from tests.api.test_listing import Life, life
from tests.clock import Clock
from tests.whole.test_storm import LOADS, MACHINES, Node, Storm


def board_of(pool: Pool) -> Board:
    return Board(pool, Records(), "llama-server", "b1", clock=lambda: round(2e9 + pool.facts.now(), 3))


def state_of(board: Board) -> dict[str, Any]:
    board.refresh()
    return dict(json.loads(board.state()))


def without_uptime(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "uptime"}


def without_ram(state: dict[str, Any]) -> dict[str, Any]:
    """Without what this machine's RAM has free, which is never at rest."""
    names = ("free", "other")
    devices = [
        {name: value for name, value in device.items() if device["kind"] == "gpu" or name not in names}
        for device in state["devices"]
    ]
    return state | {"devices": devices}


class Reader:
    """A listener that asks the board itself, whenever the test says so."""

    def __init__(self, board: Board) -> None:
        self.listener = Listener()
        self._board = board
        self._whole()

    def _whole(self) -> None:
        self._has = self._board.cursor
        self.listener.hear(b"event: state\ndata: " + self._board.state())

    def read(self) -> None:
        if self._board.needs_state(self._has):
            self._whole()
        else:
            self.listener.hear(b"event: patch\ndata: " + self._board.patch(self._has))
            self._has = self._board.cursor


@pytest.mark.parametrize("seed", range(10))
async def test_patches_make_the_state_that_a_new_board_has(seed: int) -> None:
    random = Random(seed)
    async with life(seed) as it:
        board = board_of(it.pool)
        board.refresh()
        readers = [Reader(board) for _ in range(3)]
        for _ in range(150):
            await step(it, random)
            state = state_of(board)
            for reader in random.sample(readers, random.randint(1, 3)):
                reader.read()
                assert_same(reader.listener.view(state["now"]), state)
            other = Reader(board)
            new = state_of(board_of(it.pool))
            assert_same(without_uptime(other.listener.view(new["now"])), without_uptime(new))
        check(state_of(board), schemas.STATE)
        heard = [kind for reader in readers for kind in reader.listener.heard]
        assert {"model", "device", "queue", "totals"} <= readers[0].listener.kinds
        assert heard.count("patch") > heard.count("state") / 4


async def step(it: Life, random: Random) -> None:
    await it.step()
    if not random.randrange(8):
        spec = random.choice(it.pool.catalog.models)
        it.pool.pins.set(spec, random.choice([True, False, None]))


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("gpus", [2, 4])
def test_after_a_storm_listeners_have_what_the_state_says(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, gpus: int
) -> None:  # B-W2
    random = Random(gpus)
    with contextlib.ExitStack() as stack:
        lenders = [stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE)) for _ in range(12)]
        memory = Path("/dev/shm")
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None))
        node = Node(Path(folder), MACHINES[gpus], random, [lender.pid for lender in lenders])
        monkeypatch.setenv("FAKE_NVML", str(node.nvml.folder))
        node.look()
        with asyncio.Runner(loop_factory=Clock) as runner:
            runner.run(listen_through(Storm(node), random))
    assert node.loads >= LOADS
    assert "a defect" not in caplog.text


async def listen_through(storm: Storm, random: Random) -> None:
    pool = storm.pool
    board = board_of(pool)
    listeners = Listeners(board, pool.feed)
    all_ = [Listener() for _ in range(4)]
    tasks = [asyncio.create_task(listen(listeners, each, random, slow=n == 3)) for n, each in enumerate(all_)]
    others = asyncio.create_task(storm.others())
    pins = asyncio.create_task(pin_and_let_go(storm))
    await asyncio.gather(*(storm.client() for _ in range(5)))
    pins.cancel()
    others.cancel()
    await asyncio.wait({pins, others})
    await asyncio.sleep(60)  # all of it has settled, and the slow one has read
    state = state_of(board)
    check(state, schemas.STATE)
    assert any(model["state"] == "loaded" for model in state["models"])
    by_kind = {event["kind"]: event for event in all_[0].events}
    for event in by_kind.values():
        check(event, schemas.EVENT)
    assert by_kind.keys() >= {"start", "ready", "wait", "evict", "drain", "pin"}
    for each in all_:
        assert_same(without_ram(each.view(state["now"])), without_ram(state))
        assert {"model", "device", "queue", "event", "totals"} <= each.kinds
        assert [event["seq"] for event in each.events] == sorted({event["seq"] for event in each.events})
    assert all_[3].heard.count("patch") < all_[0].heard.count("patch") / 3
    await pool.close()
    await asyncio.gather(*tasks)
    assert all(each.has_ended for each in all_)
    assert listeners.count == 0


async def pin_and_let_go(storm: Storm) -> None:
    while True:
        await asyncio.sleep(storm.random.expovariate(1))
        spec = storm.random.choice(storm.specs)
        storm.pool.pins.set(spec, True)
        await asyncio.sleep(storm.random.random())
        storm.pool.pins.set(spec, None)


async def listen(listeners: Listeners, listener: Listener, random: Random, *, slow: bool) -> None:
    """No more than five messages a second, counted: one may come late, and the next one soon after it. The slow one
    takes one now and then."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with contextlib.aclosing(listeners.messages()) as messages:
        async for message in messages:
            listener.hear(message)
            if slow:
                await asyncio.sleep(random.random() * 10)
            elif listener.heard[-1] == "patch":
                assert listener.heard.count("patch") <= (loop.time() - began) / EVERY_S + 1
