"""Restarts under load: with listening sockets that outlive the router, no request is lost. B-P12"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.activator import Activator
from tests.conftest import Starter
from tests.routers import ENGINES, FAKE, chat
from tests.steady import SteadyClient
from tests.waiting import PATIENCE_S, until


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        yield sock


@pytest.mark.parametrize("name", ["fake", "embedded", "two models"])
def test_a_restart_with_socket_activation_loses_no_request(  # B-P12
    listening: socket.socket, tiny_models: Path, tmp_path: Path, name: str
) -> None:
    engine = ENGINES["embedded"]() if name == "embedded" else FAKE
    flags = ["--engine", engine, "--models-dir", str(tiny_models), "--run-dir", str(tmp_path / "run"), "-c", "256"]
    models: tuple[str, ...] = ("tiny-a",)
    if name == "two models":  # with room for one: at any moment requests wait for a load
        models, flags = ("tiny-a", "tiny-b"), [*flags, "--models-max", "1", "--models-drain-grace", "0.1"]
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with Activator([listening], *flags, log=tmp_path / "log") as activator:
        activator.start()
        assert httpx.post(f"{url}/v1/chat/completions", json=chat("tiny-a"), timeout=PATIENCE_S).status_code == 200
        new, kept = SteadyClient(url, keeps=False, models=models), SteadyClient(url, keeps=True, models=models)
        with new, kept:
            for _ in range(2):
                before = len(new.codes), len(kept.codes)
                until(lambda: len(new.codes) > before[0] + 2 and len(kept.codes) > before[1] + 2)  # noqa: B023
                assert activator.restart() == 0
        assert activator.stop() == 0
    assert [code for code in (*new.codes, *kept.codes) if code != 200] == []
    assert "Traceback" not in activator.log
    assert activator.log.count("new connections are left to the next router") == 3


def test_a_connection_is_never_accepted_to_be_refused(  # B-P12
    listening: socket.socket, tiny_models: Path, tmp_path: Path
) -> None:
    """While a request runs on, new connections wait in the kernel; those there are get what they ask for."""
    address = listening.getsockname()
    url = f"http://127.0.0.1:{address[1]}"
    flags = ["--engine", FAKE, "--models-dir", str(tiny_models), "--run-dir", str(tmp_path / "run")]
    with Activator([listening], *flags, log=tmp_path / "log", FAKE_CHUNK_SECONDS="0.05") as activator:
        activator.start()
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            body = chat("tiny-a", 100_000, stream=True)
            with client.stream("POST", "/v1/chat/completions", json=body) as stream:
                pieces = stream.iter_raw()
                next(pieces)
                kept = httpx.Client(base_url=url, timeout=PATIENCE_S)
                assert kept.get("/readyz").status_code == 200
                assert activator.process is not None
                activator.process.terminate()
                until(lambda: "new connections are left" in activator.log)
                answer = kept.post("/v1/chat/completions", json=chat("tiny-b"))
                assert (answer.status_code, answer.headers["connection"]) == (200, "close")
                with socket.create_connection(address) as waiting:
                    waiting.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    next(pieces)
                    waiting.settimeout(0.3)
                    with pytest.raises(TimeoutError):
                        waiting.recv(1)
                    stream.close()
                    assert activator.process.wait(PATIENCE_S) == 0
                    activator.start()
                    waiting.settimeout(PATIENCE_S)
                    assert waiting.recv(99).startswith(b"HTTP/1.1 200")
        assert activator.stop() == 0


def test_a_stream_of_news_holds_no_restart_up(  # B-P12
    listening: socket.socket, tiny_models: Path, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    flags = ["--engine", FAKE, "--models-dir", str(tiny_models), "--run-dir", str(tmp_path / "run")]
    with Activator([listening], *flags, "--shutdown-grace", "600", log=tmp_path / "log") as activator:
        activator.start()
        with httpx.stream("GET", f"{url}/models/sse", timeout=PATIENCE_S) as news:
            assert activator.stop() == 0
            news.read()  # it ends as it should, not in the middle


def test_routers_that_share_a_port_follow_each_other(routers: Starter, tiny_models: Path) -> None:  # B-P12
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--reuse-port", "--port", str(port))
    old = routers(*flags)
    assert old.chat("tiny-a").status_code == 200
    clients = [SteadyClient(old.url, keeps=keeps, models=("tiny-a",)) for keeps in (False, True)]
    with clients[0] as new, clients[1] as kept:
        until(lambda: len(new.codes) > 2 and len(kept.codes) > 2)
        young = routers(*flags)
        assert old.stop() == 0
        before = len(new.codes), len(kept.codes)
        until(lambda: len(new.codes) > before[0] + 2 and len(kept.codes) > before[1] + 2)
    assert [code for code in (*new.codes, *kept.codes) if code != 200] == []
    assert young.stop() == 0
