from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from router.node.interface import Launch
from router.node.process import LocalChild
from router.node.watchdog import Watchdog
from router.wire.address import Address
from tests.node.rig import KEY, RunLoop, Start


# B-P1
async def test_an_older_build_is_ready_by_its_health(start: Start) -> None:
    child = await start("--no-protocol", "--load-seconds", "0.2", "--alias", "old")
    assert (await child.ready())["id"] == "old"
    assert (await child.stop()).code == 0


ANSWERING = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
connection = server.accept()[0]
connection.recv(65536)
state = 'cmd_child_to_router:state:{"state":"%s","payload":{"stages":["x"],"current":"x","value":1}}\\n'
os.write(1, (state % "loading" + state % "ready").encode())
open(sys.argv[2]).close()
connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{}")
open(sys.argv[3], "w").close()
sys.stdin.readline()
"""


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_health_is_answered_while_a_state_is_heard(folder: Path, run: RunLoop, rounds: int) -> None:
    """The answer comes so many rounds of the loop after the state."""
    socket, go, done = folder / "x.sock", folder / "go", folder / "done"
    errors: list[object] = []

    async def live() -> None:
        loop, watchdog = asyncio.get_running_loop(), Watchdog()
        loop.set_exception_handler(lambda loop, context: errors.append(context))

        def let_answer(left: int) -> None:
            if left:
                loop.call_soon(let_answer, left - 1)
            else:
                go.open("w").close()
                done.open().close()

        command = [sys.executable, "-ISc", ANSWERING, *map(str, (socket, go, done))]
        launch = Launch("m", (), (), on_event=lambda _: let_answer(rounds))
        child = LocalChild.start(launch, command, os.environ, Address(str(socket)), KEY, watchdog)
        await child.ready()
        await child.stop()
        watchdog.close()

    os.mkfifo(go)
    os.mkfifo(done)
    run(live())
    assert errors == []
