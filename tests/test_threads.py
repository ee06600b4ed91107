"""Work that blocks has threads by purpose, and timeouts: a disk that hangs stops its own models alone."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.errors import Unavailable
from router.threads import Threads, Unanswered
from tests import hang
from tests.conftest import Starter
from tests.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD")


@pytest.mark.parametrize("reads", [False, True])
def test_models_on_a_disk_that_hangs_do_not_stop_others(  # B-T6
    routers: Starter, tiny_models: Path, fake: str, tmp_path: Path, reads: bool
) -> None:
    folder, healed = tmp_path / "models", tmp_path / "healed"
    folder.mkdir()
    shutil.copy(tiny_models / "tiny-a.gguf", folder / "good.gguf")
    shutil.copy(tiny_models / "tiny-b.gguf", folder / "other.gguf")
    for number in range(8):
        shutil.copy(tiny_models / "tiny-a.gguf", folder / f"hung-{number}.gguf")
    variables = hang.variables("/hung-", healed, reads=reads)
    router = routers("--engine", fake, "--models-dir", str(folder), "--models-load-timeout", "3", **variables)
    with ThreadPoolExecutor(8) as clients:

        def ask(number: int) -> httpx.Response:
            return httpx.post(f"{router.url}/v1/chat/completions", json=_chat(f"hung-{number}"), timeout=60)

        answers = [clients.submit(ask, number) for number in range(8)]
        for model in ("good", "other"):
            assert router.chat(model).status_code == 200
        assert len(router.listing()) == 10
        for number, answer in enumerate(answers):
            response = answer.result(60)
            assert response.status_code == 503, response.text
            message = response.json()["error"]["message"]
            assert f"hung-{number}.gguf" in message
            assert "hangs" in message
    begun = time.monotonic()
    assert router.chat("hung-0").status_code == 503  # and at once: it hangs still
    assert time.monotonic() - begun < 2.5
    assert router.stop() == 0
    assert time.monotonic() - begun < 12


def test_models_are_served_again_when_the_disk_has_come_back(  # B-T6
    routers: Starter, tiny_models: Path, fake: str, tmp_path: Path
) -> None:
    folder, healed = tmp_path / "models", tmp_path / "healed"
    folder.mkdir()
    shutil.copy(tiny_models / "tiny-a.gguf", folder / "hung-0.gguf")
    shutil.copy(tiny_models / "tiny-b.gguf", folder / "other.gguf")
    variables = hang.variables("/hung-", healed)
    router = routers("--engine", fake, "--models-dir", str(folder), "--models-load-timeout", "2", **variables)
    assert router.chat("hung-0").status_code == 503
    healed.touch()
    until(lambda: router.chat("hung-0").status_code == 200)


def _chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


async def test_jobs_that_hang_are_left_behind_and_others_run() -> None:  # B-T6
    threads, go_on = Threads("test", few=2, most=12), threading.Event()
    hung = [asyncio.create_task(threads.run(go_on.wait, timeout=1.5, what=f"the file {number}")) for number in range(8)]
    await asyncio.sleep(0)
    assert await threads.run(lambda: 5, timeout=30.0) == 5
    found = await asyncio.gather(*hung, return_exceptions=True)
    assert all(isinstance(each, Unanswered) for each in found)
    assert "the file 3 " in str(found[3])
    with pytest.raises(Unanswered, match="the file 3 still hangs"):
        await threads.run(go_on.wait, timeout=30.0, what="the file 3")
    go_on.set()

    async def answers() -> bool:
        try:
            return await threads.run(go_on.wait, timeout=30.0, what="the file 3")
        except Unanswered:
            return False

    end = time.monotonic() + 20
    while not await answers():
        assert time.monotonic() < end


async def test_the_line_is_bounded_and_a_cancelled_job_leaves_it() -> None:  # B-T6
    threads, go_on = Threads("test", few=1, most=1, waiting=2), threading.Event()
    try:
        first = asyncio.create_task(threads.run(go_on.wait))
        while "1 at work" not in repr(threads):
            await asyncio.sleep(0.001)
        waiting = [asyncio.create_task(threads.run(lambda: 1)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="Too much is waiting"):
            await threads.run(lambda: 1)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        assert "1 waiting" in repr(threads)
        go_on.set()
        assert await waiting[1] == 1
        assert await first
    finally:
        go_on.set()


async def test_errors_are_raised_to_the_caller() -> None:  # B-T6
    threads = Threads("test")

    def fail(error: BaseException) -> None:
        raise error

    with pytest.raises(ValueError, match="so"):
        await threads.run(fail, ValueError("so"))
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.run(fail, StopIteration(1))
    assert await threads.run(lambda: 3) == 3
