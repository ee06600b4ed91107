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


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ModuleNotFoundError(\"No module named 'huggingface_hub'\")", "pip install huggingface_hub"),
        ("raise ImportError('libssl.so.3: cannot open shared object file')", "libssl.so.3"),
        ("def broken(:", "its packages do not work"),
        ("raise MemoryError", "memory is short"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9, as the kernel does"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11"),
        ("import os; os._exit(3)", r"exit code 3: try again"),
        ("import os; raise RuntimeError('hf_secret_token' + chr(27) + os.environ['HF_TOKEN'])", r"\*\*\*"),
        ("import sys; sys.stderr.write('x' * 10**6); sys.exit(2)", "exit code 2"),
    ],
)
async def test_a_child_that_dies_at_once_is_told_in_a_sentence(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:  # B-H6
    serve(one_model())
    (tmp_path / "huggingface_hub.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret_token")
    with pytest.raises(RouterError, match=words) as died:
        await pull("user/m", tmp_path / "cache")
    assert "hf_secret_token" not in died.value.message
    assert died.value.message.isprintable()
    assert len(died.value.message) < 700
