"""The child that speaks to the hub: it is killed with its caller, and the router never imports what it imports."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import uvloop

from router.errors import RouterError
from tests.hub.downloads import Serve, children, one_model, pull, stopped
from tests.waiting import eventually


def test_the_serving_process_never_imports_the_client() -> None:
    code = "import sys, router.serve, router.hub.fetch; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_killed_child_is_an_error(serve: Serve, tmp_path: Path) -> None:
    async with stopped(serve, tmp_path, 1 << 20) as (_, task, _):
        (child,) = children()
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(RouterError, match="ended by itself"):
            await task


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_cancelling_at_any_moment_leaves_no_process_behind(
    serve: Serve, tmp_path: Path, runner: Callable[..., None]
) -> None:  # B-H3
    """Cancelled twice, even; no file descriptor is left either."""
    serve(one_model())

    async def cancel_often() -> None:
        before = psutil.Process().num_fds()
        for delay in (0, 0.001, 0.01, 0.1):
            task = asyncio.create_task(pull("user/m", tmp_path))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await eventually(lambda: not children() and psutil.Process().num_fds() <= before)

    runner(cancel_often())
