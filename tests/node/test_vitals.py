"""What counts as life: an answer, output, use of the processor."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from router.errors import LoadFailed
from router.node.vitals import Vitals, cpu_times, has_computed
from tests.node.rig import Start, ask, is_alive
from tests.processes import suspend
from tests.waiting import PATIENCE_S, eventually


async def until_lifeless(look: Callable[[], Awaitable[bool]]) -> None:
    """The child's last output may still be on its way, and it may still be at work on the look itself."""
    async with asyncio.timeout(PATIENCE_S):
        while await look():
            pass


async def test_a_child_that_answers_lives(start: Start) -> None:  # B-S20
    child = await start()
    await child.ready()
    assert await child.shows_life(20)  # at once: the answer ends the look


async def test_a_child_that_was_stopped_by_a_signal_shows_no_life_until_it_goes_on(start: Start) -> None:  # B-S20
    child = await start()
    await child.ready()
    suspend(child.pid)
    await until_lifeless(lambda: child.shows_life(0.5))
    os.kill(child.pid, signal.SIGCONT)
    assert await child.shows_life(20)


async def test_a_child_that_answers_nothing_lives_while_it_computes(start: Start) -> None:  # B-S20
    deaf, busy = await start("--deaf"), await start("--deaf", "--spin")
    for child in (deaf, busy):
        await child.ready()
    await until_lifeless(lambda: deaf.shows_life(0.5))
    # However short the looks are: what counts is its work since the first one.
    looks = [await busy.shows_life(0.05) for _ in range(40)]
    assert any(looks)


async def test_a_child_that_writes_lives(start: Start) -> None:  # B-S20
    child = await start("--deaf")
    await child.ready()
    vitals = Vitals(child.pid, child.address, child.key)
    written: list[str] = []
    await until_lifeless(lambda: vitals.show_life(lambda: bool(written), 0.3))
    written.append("a line")
    assert await vitals.show_life(lambda: bool(written), 0.3)
    assert "silent" in repr(vitals)


async def test_any_answer_is_life(start: Start) -> None:  # B-S20
    child = await start("--load-seconds", "600")
    await eventually(lambda: Path(child.address.path or "").exists())
    assert (await ask(child, "/health")).status_code == 503
    assert await child.shows_life(20)


async def test_without_a_process_there_is_no_life(start: Start) -> None:
    child = await start()
    await child.ready()
    await child.kill()
    assert not is_alive(child.pid)
    assert not await child.shows_life(0.1)


async def test_a_kill_gives_no_time(start: Start) -> None:  # B-S20
    child = await start("--ignore-exit", "--ignore-sigterm", stop_timeout=600)
    await child.ready()
    suspend(child.pid)
    assert (await child.kill()).code == -signal.SIGKILL
    assert "was stopped" in (await child.kill()).sentence  # a second call finds the same end


async def test_a_stop_of_a_child_that_hangs_ends(start: Start) -> None:  # B-S20 B-P4
    child = await start(stop_timeout=0.2)
    await child.ready()
    suspend(child.pid)
    assert (await child.stop()).code == -signal.SIGKILL


async def test_a_silent_load_that_computes_is_waited_for_and_one_that_hangs_is_not(start: Start) -> None:  # B-S20
    computes = await start("--load-seconds", "6", "--silent", "--spin", load_timeout=2)
    assert await computes.ready()
    hangs = await start("--load-seconds", "600", "--silent", "--spin", load_timeout=2)
    suspend(hangs.pid)
    with pytest.raises(LoadFailed, match=r"silent for 2 s"):
        await hangs.ready()
    assert not is_alive(hangs.pid)


def test_use_of_the_processor_is_compared_process_by_process() -> None:
    assert has_computed({1: 5.0}, {1: 5.02}, 1.0)
    assert not has_computed({1: 5.0}, {1: 5.002}, 1.0)
    assert not has_computed({1: 5.0, 2: 9.0}, {1: 5.0}, 1.0)  # one of them has ended
    assert has_computed({1: 5.0}, {1: 5.0, 2: 0.1}, 1.0)  # one has come
    assert has_computed(None, {1: 5.0}, 1.0)  # what cannot be read ends no process
    assert has_computed({1: 5.0}, None, 1.0)


async def test_a_process_that_is_gone_has_used_nothing() -> None:
    assert await cpu_times(2**22 + 1) == {}
