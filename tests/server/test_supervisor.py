"""What a service manager hears of a router. B-P12"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.server.supervisor import MIN_PING_S, Supervisor
from tests.activator import Notifications
from tests.conftest import Starter
from tests.routers import FAKE, Router
from tests.waiting import PATIENCE_S, until


@pytest.fixture(params=["path", "abstract"])
def heard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Notifications]:
    place = str(tmp_path / "notify") if request.param == "path" else f"@llama-router-{tmp_path.name}-{time.time_ns()}"
    found = Notifications(place)
    yield found
    found.sock.close()


def start(routers: Starter, models: Path, heard: Notifications, **environ: str) -> Router:
    return routers("--engine", FAKE, "--models-dir", str(models), NOTIFY_SOCKET=heard.address, **environ)


def test_a_service_manager_hears_of_start_reload_and_end(  # B-P12
    routers: Starter, tiny_models: Path, heard: Notifications
) -> None:
    router = start(routers, tiny_models, heard, FAKE_CHUNK_SECONDS="0.05")
    until(lambda: "READY=1" in heard.lines())
    assert f"STATUS=listens on {router.url}" in heard.lines()
    assert not any("WATCHDOG" in line for line in heard.lines())

    before = time.monotonic_ns() // 1000
    router.process.send_signal(signal.SIGHUP)
    until(lambda: heard.lines().count("READY=1") == 2)
    (reload,) = [message for message in heard.messages() if "RELOADING=1" in message]
    (stamp,) = [int(line.removeprefix("MONOTONIC_USEC=")) for line in reload if line.startswith("MONOTONIC_USEC=")]
    assert before <= stamp <= time.monotonic_ns() // 1000

    with router.stream("tiny-a", 100_000) as events:
        next(events)
        (child,) = router.children()
        assert "NOTIFY_SOCKET" not in child.environ()
        router.process.send_signal(signal.SIGTERM)
        until(lambda: "STOPPING=1" in heard.lines())
        until(lambda: any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in heard.lines()))
        router.process.send_signal(signal.SIGHUP)
        next(events)
    assert router.process.wait(PATIENCE_S) == 0
    assert (heard.lines().count("READY=1"), heard.lines().count("RELOADING=1")) == (2, 1)


def test_a_reload_has_ended_when_the_last_one_has() -> None:  # B-P12
    sent: list[tuple[str, ...]] = []

    class Heard(Supervisor):
        def _send(self, *lines: str, waits: bool = True) -> None:
            sent.append(lines[:1])

    supervisor = Heard("/x")
    supervisor.reloading()
    supervisor.reloading()
    supervisor.reloaded()
    assert sent == [("RELOADING=1",)] * 2
    supervisor.reloaded()
    assert sent[2:] == [("READY=1",)]


@pytest.mark.parametrize(("pid", "is_watched"), [("", True), ("1", False)])
def test_a_watchdog_is_fed(  # B-P12
    routers: Starter, tiny_models: Path, heard: Notifications, pid: str, is_watched: bool
) -> None:
    router = start(routers, tiny_models, heard, WATCHDOG_USEC="100000", WATCHDOG_PID=pid)
    until(lambda: "READY=1" in heard.lines())
    if is_watched:
        until(lambda: heard.lines().count("WATCHDOG=1") >= 3)
    assert router.chat("tiny-a").status_code == 200
    (child,) = router.children()
    assert not {"WATCHDOG_USEC", "WATCHDOG_PID", "NOTIFY_SOCKET"} & set(child.environ())
    assert ("WATCHDOG=1" in heard.lines()) is is_watched


@pytest.mark.parametrize("place", ["", "relative", "vsock:2:1234", "/gone/no.sock", "@nobody-listens-there"])
def test_a_place_that_cannot_be_told_anything_is_harmless(place: str) -> None:  # B-P12
    environ = {"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "x", "A": "1"}
    supervisor = Supervisor.take(environ)
    supervisor.ready("now")
    supervisor.stopping("end")
    supervisor.extend()
    assert environ == {"A": "1"}


def test_a_service_manager_that_reads_nothing_holds_up_no_client(  # B-P12
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.server.supervisor.SEND_TIMEOUT_S", 1e6)  # whoever waits does not return
    path = str(tmp_path / "s")

    async def pings() -> None:
        supervisor = Supervisor(path, watchdog=0.000001)
        supervisor.stopping("end")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.connect(path)
            with contextlib.suppress(BlockingIOError):
                while other.send(b"x"):
                    pass
        pinging = asyncio.ensure_future(supervisor._ping())
        for _ in range(3):
            supervisor.extend()
            await asyncio.sleep(MIN_PING_S)
        pinging.cancel()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(path)
        asyncio.run(pings())
