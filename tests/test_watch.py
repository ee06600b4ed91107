"""A changed file is reported once, when it has stopped changing."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from router.watch import changes

INTERVAL = 0.02


async def test_a_change_is_reported_once_it_has_settled(tmp_path: Path) -> None:
    file = tmp_path / "models.ini"
    file.write_text("1")
    news = changes(file, INTERVAL)
    reported = asyncio.ensure_future(anext(news))
    for step in range(10):  # the file is still being written
        file.write_text("x" * (step + 2))
        await asyncio.sleep(INTERVAL / 2)
        assert not reported.done()
    await asyncio.wait_for(reported, 5)
    again = asyncio.ensure_future(anext(news))
    await asyncio.sleep(INTERVAL * 4)
    assert not again.done()
    (tmp_path / "new").write_text("replaced")
    os.replace(tmp_path / "new", file)
    await asyncio.wait_for(again, 5)
    gone = asyncio.ensure_future(anext(news))
    file.unlink()
    await asyncio.wait_for(gone, 5)
    back = asyncio.ensure_future(anext(news))
    file.write_text("1")
    await asyncio.wait_for(back, 5)
    await news.aclose()  # type: ignore[attr-defined]
