"""No child outlives its router."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from router.node.run_directory import RunDirectory
from router.node.watchdog import Watchdog
from tests.node.rig import FAKE, FAKE_COMMAND, is_alive
from tests.waiting import eventually

ROUTER = """
import asyncio, sys
from pathlib import Path
from router.engine.discovery import Engine
from router.node.interface import Launch
from router.node.local import LocalNode

class NoDevices:
    def list(self): return ()
    def spare(self): return 0
    async def read(self): return ()

async def main(root, fake):
    node = LocalNode(Engine("llama-server", (sys.executable, "-IS", fake)), NoDevices(), Path(root), {"PATH": "/bin"})
    deaf = ("--ignore-exit", "--ignore-sigterm", "--spawn-child")
    children = [await node.spawn(Launch("m", (*deaf, *args), ())) for args in ((), ("--load-seconds", "60"))]
    await children[0].ready()
    while not all("grandchild" in " ".join(child.log) for child in children):
        await asyncio.sleep(0.01)
    print(*(child.pid for child in children), flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


# B-P5
def test_a_killed_router_takes_its_children_along(folder: Path) -> None:
    socket = folder / "foreign.sock"
    foreign = subprocess.Popen([*FAKE_COMMAND, "--host", socket, "--no-protocol"], stderr=subprocess.DEVNULL)
    router = subprocess.Popen(
        [sys.executable, "-c", ROUTER, folder / "run", FAKE],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(FAKE.parent.parent)},
        start_new_session=True,
    )
    try:
        assert router.stdout is not None
        pids = [int(word) for word in router.stdout.readline().split()]
        tree = [*pids, *(child.pid for pid in pids for child in psutil.Process(pid).children())]
        assert len(tree) == 4
        assert all(map(is_alive, tree))
        os.killpg(router.pid, signal.SIGKILL)
        asyncio.run(eventually(lambda: not any(map(is_alive, tree)), 2))
        router.wait()
        RunDirectory.open(folder / "run").close()
        assert is_alive(foreign.pid)
        assert [path.name for path in (folder / "run").iterdir()] == ["lock"]
    finally:
        for process in (router, foreign):
            process.kill()
            process.communicate()


# B-P5
def test_a_watchdog_that_was_killed_is_replaced() -> None:
    watchdog, sleepers = Watchdog(), [subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in "123"]
    watchdog.watch(sleepers[0].pid)
    watchdog.watch(sleepers[2].pid)
    shell = watchdog._shell
    assert shell is not None
    shell.kill()
    shell.wait()
    watchdog.watch(sleepers[1].pid)
    watchdog.forget(sleepers[2].pid)
    watchdog.close()
    assert [sleeper.wait(timeout=2) for sleeper in sleepers[:2]] == [-signal.SIGKILL] * 2
    assert sleepers[2].poll() is None
    sleepers[2].kill()
    sleepers[2].wait()
