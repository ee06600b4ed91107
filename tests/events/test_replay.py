"""Events alone are enough to know the books: who runs and holds what, who is served, who waits in which order."""

from __future__ import annotations

import asyncio

import pytest

from tests.events.replay import EVERY_KIND, Replay
from tests.pool.bench import model, settings_bench
from tests.pool.test_long_walk import QUICK, Walk


@pytest.mark.parametrize("seed", range(6))
async def test_a_long_walk_can_be_replayed(seed: int, caplog: pytest.LogCaptureFixture) -> None:  # B-O1
    """Clients, loads with settings, unloads, new catalogs, crashes, hangs."""
    async with settings_bench(model("a"), model("b"), model("c"), models_max=2, **QUICK) as b:
        replay = Replay(b.pool)
        walk = Walk(b, 100 + seed)
        for _ in range(5):
            await walk.go(60)
        await asyncio.sleep(0)
        assert replay.wrong == []
        assert replay.compared > 50
    assert "a defect" not in caplog.text


def test_kinds_have_names_of_their_own() -> None:
    assert len({kind.KIND for kind in EVERY_KIND}) == len(EVERY_KIND)
