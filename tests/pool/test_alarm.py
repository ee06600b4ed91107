"""The alarm in the event loop that the router runs in, and in asyncio's own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import pytest

from router.scheduling.states import State
from tests.pool.bench import bench
from tests.waiting import eventually

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop}
if sys.platform != "win32":
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("ttl", [1e-9, 1e-4, 0.3])
def test_a_time_that_is_over_as_soon_as_it_is_set(loop: str, ttl: float, caplog: pytest.LogCaptureFixture) -> None:
    """Further events come before the alarm goes off."""

    async def scenario() -> None:
        async with bench("a", ttl=ttl) as b:
            await b.use("a")
            for _ in range(3):
                b.pool._alarm.set()
                assert repr(b.pool._alarm).startswith("<Alarm for ")
            await eventually(lambda: b.state("a") is State.UNLOADED)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario())
    assert "a defect" not in caplog.text
