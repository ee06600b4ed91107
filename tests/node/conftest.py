from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.node.interface import Launch
from router.node.process import LocalChild
from router.node.watchdog import Watchdog
from router.wire.address import Address
from tests import nvml
from tests.node.machine import GIB, Host
from tests.node.rig import FAKE_COMMAND, KEY, RunLoop, Start
from tests.nvml import FakeNvml, Gpu


@pytest.fixture
def folder() -> Iterator[Path]:
    """Unlike `tmp_path`, short enough for the name of a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="lr-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def start(folder: Path) -> AsyncIterator[Start]:
    children: list[LocalChild] = []
    watchdog = Watchdog()

    async def start(*args: str, command: tuple[str, ...] = FAKE_COMMAND, **fields: Any) -> LocalChild:
        socket = folder / f"{len(children)}.sock"
        argv = [*command, *args, "--host", str(socket)]
        launch = Launch("a-model", args, (), **fields)
        env = {**os.environ, "LLAMA_API_KEY": KEY, "LLAMA_SERVER_ROUTER_PORT": "1", **dict(launch.env)}
        child = LocalChild.start(launch, argv, env, Address(str(socket)), KEY, watchdog)
        children.append(child)
        return child

    yield start
    await asyncio.gather(*(child.stop() for child in children))
    assert not watchdog._groups
    watchdog.close()
    assert not os.listdir(folder)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> RunLoop:
    """Runs it to its end on one kind of loop."""
    found: RunLoop = pytest.importorskip(request.param).run
    return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    """Two GPUs of 24 and 16 GiB, seen by this process."""
    nvml.load()
    fake = FakeNvml(tmp_path / "nvml", Gpu(24 * GIB, reserved=GIB), Gpu(16 * GIB))
    monkeypatch.setenv("FAKE_NVML", str(fake.folder))
    nvml.close_all()
    yield fake
    for index in range(len(fake.gpus)):
        fake.change(index, status=nvml.LOST)  # ends what hangs
    fake.driver(nvml.UNKNOWN)
    nvml.close_all()


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    """A process that can hold memory, until killed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()
