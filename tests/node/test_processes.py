from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path

import pytest

from router.node.interface import Launch
from router.node.process import LocalChild
from router.node.watchdog import Watchdog
from router.wire.address import Address
from tests.node.rig import KEY, RunLoop
from tests.waiting import eventually


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_a_child_may_end_after_all_tasks_were_cancelled(
    folder: Path, run: RunLoop, has_pidfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`asyncio.run` cancels all tasks at its end, while the loop still runs."""
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    errors: list[object] = []

    async def live() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        watchdog = Watchdog()
        child = LocalChild.start(
            Launch("m", (), ()), ["sleep", "60"], os.environ, Address(str(folder / "x.sock")), KEY, watchdog
        )
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert has_pidfd != any(thread.name == f"reap-{child.pid}" for thread in threading.enumerate())
        os.kill(child.pid, signal.SIGKILL)
        await eventually(child._code.done)
        assert child._code.result() == -signal.SIGKILL
        for pipe in child._pipes:
            pipe.close()
        child._stdin.close()
        watchdog.close()

    run(live())
    assert errors == []
