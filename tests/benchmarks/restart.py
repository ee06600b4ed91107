"""(k) A restart under load: two clients ask four times a second, one over a new connection each time, one over one that
it keeps. With socket activation, and without.

A service manager's part is played by `tests.activator`. A router without it closes its port, so some requests fail
whatever it does: those that come while no process listens.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import httpx

from tests.activator import Activator
from tests.benchmarks.report import OURS, Row, Target
from tests.benchmarks.stage import MODEL, PATIENCE, Stage
from tests.routers import chat
from tests.steady import RATE, SteadyClient

ALONE = "without socket activation"
RESTARTS = 3
PAUSE_S = 1.5  # before each restart, and after the last one


def measure(stage: Stage, seconds: float, missing: list[str], restarts: int = RESTARTS) -> Iterator[Row]:
    found = {name: one(stage, restarts, is_activated=name == OURS) for name in (OURS, ALONE)}
    case = f"{restarts} restarts, {RATE:g} requests/s, "
    for index, kind in enumerate(("a new connection each", "a kept connection")):
        failed = {name: 100.0 * clients[index].failed / len(clients[index].codes) for name, clients in found.items()}
        yield Row("restart", case + kind, "failed", "%", failed, (Target("none", not failed[OURS]),))
        waits = {name: clients[index].longest for name, clients in found.items()}
        yield Row("restart", case + kind, "longest wait", "s", waits)


def one(stage: Stage, restarts: int, *, is_activated: bool) -> tuple[SteadyClient, SteadyClient]:
    """The two clients after so many restarts."""
    room = stage.room("restart")
    room.mkdir()
    flags = ["--engine", str(stage.engine(pinned=False)), "--models-dir", str(stage.models), "--run-dir", f"{room}/run"]
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        port = listening.getsockname()[1]
        if not is_activated:
            listening.close()
            flags += ["--port", str(port)]
        given = [listening] if is_activated else []
        activator = stack.enter_context(Activator(given, *flags, log=room / "log"))
        activator.start()
        url = f"http://127.0.0.1:{port}"
        httpx.post(f"{url}/v1/chat/completions", json=chat(MODEL), timeout=PATIENCE).raise_for_status()
        new, kept = (SteadyClient(url, keeps=keeps, models=(MODEL,)) for keeps in (False, True))
        with new, kept:
            for _ in range(restarts):
                time.sleep(PAUSE_S)
                activator.restart()
            time.sleep(PAUSE_S)
        activator.stop()
    return new, kept
