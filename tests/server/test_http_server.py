"""The end of a router: who is served, who is refused, who is cut off; and SIGHUP, which never ends one."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import Starter
from tests.routers import FAKE, Router
from tests.shell import Shell, write
from tests.waiting import PATIENCE_S, until

ENDLESS = 100_000  # tokens
MESSAGES = [{"role": "user", "content": "hi"}]
# A request to each API, and the end of a stream that is cut off.
ASKS: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": ({"messages": MESSAGES}, '"type": "unavailable_error"'),
    "/v1/completions": ({"prompt": "hi"}, '"type": "unavailable_error"'),
    "/v1/messages": ({"messages": MESSAGES, "max_tokens": ENDLESS}, "event: error"),
    "/v1/responses": ({"input": "hi"}, "event: error"),
    "/api/chat": ({"messages": MESSAGES}, '{"error":'),
}


def start(routers: Starter, models: Path, *flags: str, **environ: str) -> Router:
    return routers("--engine", FAKE, "--models-dir", str(models), *flags, FAKE_CHUNK_SECONDS="0.05", **environ)


def is_draining(router: Router) -> bool:
    answer = httpx.get(f"{router.url}/readyz", timeout=PATIENCE_S)
    return answer.status_code == 503 and answer.json()["status"] == "draining"


def streamed(router: Router, path: str) -> str:
    """All that comes of a stream that ends when the router wants it."""
    body = {"model": "tiny-a", "stream": True, **ASKS[path][0]}
    with httpx.stream("POST", router.url + path, json=body, timeout=PATIENCE_S) as response:
        return response.read().decode()


# B-P12
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_router_that_ends_says_so_and_refuses_new_requests(
    routers: Starter, tiny_models: Path, number: signal.Signals
) -> None:
    router = start(routers, tiny_models)
    assert [router.client.get(path).json() for path in ("/livez", "/readyz", "/health")] == [{"status": "ok"}] * 3
    kept = [httpx.Client(base_url=router.url, timeout=PATIENCE_S) for _ in ASKS]
    for client in kept:
        assert client.get("/readyz").status_code == 200
    with router.stream("tiny-a", ENDLESS) as events:
        next(events)
        router.process.send_signal(number)
        until(lambda: is_draining(router))
        for client, (path, (body, _)) in zip(kept, ASKS.items(), strict=True):
            for model, place in (("tiny-a", client), ("tiny-b", httpx.Client(base_url=router.url))):
                answer = place.post(path, json={"model": model, **body})
                assert answer.status_code in (503, 529), path
                assert int(answer.headers["retry-after"]) > 0
                assert "shutting down" in answer.text
                assert answer.headers["connection"] == "close"
        health = httpx.get(f"{router.url}/health")
        assert (health.status_code, health.json()["error"]["type"]) == (503, "unavailable_error")
        assert httpx.get(f"{router.url}/livez").json() == {"status": "ok"}
        assert httpx.get(f"{router.url}/metrics").status_code == 200
        next(events)
    assert router.process.wait(PATIENCE_S) == 0
    assert f"shutting down ({number.name}): time for 1 running request: up to 30 s to finish" in router.log
    assert "Traceback" not in router.log


# B-P12
def test_in_the_delay_all_is_served(routers: Starter, tiny_models: Path) -> None:
    router = start(routers, tiny_models, "--shutdown-delay", "600")
    assert router.chat("tiny-a").headers.get("connection") is None
    router.process.send_signal(signal.SIGTERM)
    until(lambda: is_draining(router))
    for model in ("tiny-a", "tiny-a", "tiny-b"):  # the first over the connection that is kept
        answer = router.chat(model)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    router.process.send_signal(signal.SIGTERM)
    assert router.process.wait(PATIENCE_S) == 0
    assert "requests are served for 600 s more" in router.log


# B-P12
def test_after_the_grace_streams_are_cut_with_an_error_of_their_api(routers: Starter, tiny_models: Path) -> None:
    router = start(routers, tiny_models, "--shutdown-grace", "2", FAKE_TOKENS=str(ENDLESS))
    assert router.chat("tiny-a", 1).status_code == 200
    with concurrent.futures.ThreadPoolExecutor(len(ASKS) + 1) as pool:
        streams = {path: pool.submit(streamed, router, path) for path in ASKS}
        whole = pool.submit(router.chat, "tiny-a", ENDLESS)
        until(lambda: router.figure("requests_active", "tiny-a") == len(ASKS) + 1)
        router.process.send_signal(signal.SIGTERM)  # the grace is time enough for each stream to begin
        for path, stream in streams.items():
            last = stream.result()[-800:]
            assert ASKS[path][1] in last, path
            assert "the router is shutting down" in last, path
        assert (whole.result().status_code, whole.result().json()["error"]["type"]) == (503, "unavailable_error")
    assert router.process.wait(PATIENCE_S) == 0
    assert f"{len(ASKS) + 1} running requests cut off: --shutdown-grace 2 is over" in router.log
    assert "Traceback" not in router.log


# B-P12
@pytest.mark.parametrize("path", ASKS)
def test_a_stream_that_waits_is_refused_with_an_error_of_its_api(
    routers: Starter, tiny_models: Path, tmp_path: Path, path: str
) -> None:
    """Some clients have got comments by then, so that no status can tell them."""
    flags = ("--models-max", "1", "--models-drain-grace", "600", "--stream-keepalive", "0.05")
    router = start(routers, tiny_models, *flags)
    with router.stream("tiny-b", ENDLESS) as events, concurrent.futures.ThreadPoolExecutor(1) as pool:
        next(events)
        waiting = pool.submit(streamed, router, path)
        until(lambda: router.figure("requests_waiting", "tiny-a") == 1)
        next(events)
        next(events)
        router.process.send_signal(signal.SIGTERM)
        text = waiting.result()
        assert "shutting down" in text
        assert "error" in text
        next(events)
    assert router.process.wait(PATIENCE_S) == 0
    assert "Traceback" not in router.log


# B-P12
def test_clients_that_send_no_whole_request_hold_nothing_up(routers: Starter, tiny_models: Path) -> None:
    router = start(routers, tiny_models, "--shutdown-grace", "600")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    with contextlib.ExitStack() as stack:
        url = httpx.URL(router.url)
        clients = [stack.enter_context(socket.create_connection((url.host, url.port))) for _ in range(3)]
        clients[1].sendall(head[:30])
        clients[2].sendall(head)
        assert router.client.get("/livez").status_code == 200  # by now the others have been read
        router.process.send_signal(signal.SIGTERM)
        clients[2].settimeout(PATIENCE_S)
        assert clients[2].recv(999).startswith(b"HTTP/1.1 503")
        assert router.process.wait(PATIENCE_S) == 0
    assert "Traceback" not in router.log


# B-P12
def test_a_second_signal_ends_all_at_once(routers: Starter, tiny_models: Path, tmp_path: Path) -> None:
    """A hung child would have ten minutes for its end."""
    presets = write(tmp_path / "p.ini", "[tiny-a]\nstop-timeout = 600\n")
    router = start(routers, tiny_models, "--models-preset", str(presets), "--shutdown-grace", "600", FAKE_TOKENS="9999")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stream = pool.submit(streamed, router, "/v1/chat/completions")
        until(lambda: router.figure("requests_active", "tiny-a") == 1)
        (child,) = router.children()
        child.suspend()
        router.process.send_signal(signal.SIGTERM)
        until(lambda: is_draining(router))
        router.process.send_signal(signal.SIGTERM)
        assert "the router is shutting down" in stream.result()
    assert router.process.wait(PATIENCE_S) == 0
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert "a second signal" in router.log


# SIGHUP, and signals during the start


@pytest.fixture
def slow_engine(tmp_path: Path) -> Iterator[Path]:
    """An engine that says what it is as soon as the file `go` is there; it has made `begun` by then."""
    script = f"""#!/bin/sh
if [ "$1" = --version ]; then
  touch {tmp_path}/begun
  while [ ! -e {tmp_path}/go ]; do sleep 0.01; done
fi
exec {FAKE} "$@"
"""
    yield write(tmp_path / "engine", script, executable=True)
    (tmp_path / "go").touch()


@pytest.mark.parametrize("command", ["serve", "estimate", "check"])
def test_a_hang_up_while_a_command_starts_is_harmless(  # B-P12
    shell: Shell, slow_engine: Path, tiny_models: Path, command: str
) -> None:
    engine = ("--engine", str(slow_engine))
    models = (*engine, "--models-dir", str(tiny_models))
    words = {
        "serve": ("serve", "--port", str(shell.port), "--run-dir", str(shell.run_dir), *models),
        "estimate": ("estimate", "tiny-a", *models),
        "check": ("check", str(write(shell.folder / "p.ini", "[a]\nhf-repo = user/a\n")), *engine),
    }[command]
    with shell.start(words, {}) as process:
        until((shell.folder / "begun").exists)
        for asked in (process.pid, *(child.pid for child in psutil.Process(process.pid).children())):
            os.kill(asked, signal.SIGHUP)  # as a terminal that is closed does it: to all
        (shell.folder / "go").touch()
        if command == "serve":
            assert process.stderr
            assert any("is listening" in line for line in iter(process.stderr.readline, ""))
            process.terminate()
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0


def test_a_router_that_starts_is_ended_by_a_signal(shell: Shell, slow_engine: Path) -> None:  # B-P12
    place = shell.folder / "r.sock"
    with shell.start(
        ("--host", str(place), "--run-dir", str(shell.run_dir), "--engine", str(slow_engine)), {}
    ) as process:
        until((shell.folder / "begun").exists)
        process.terminate()
        assert process.wait(PATIENCE_S) == -signal.SIGTERM
        process.communicate()
    assert not place.exists()


def test_hang_ups_at_any_time_are_harmless(routers: Starter, tiny_models: Path) -> None:  # B-P12
    router = start(routers, tiny_models)
    with router.stream("tiny-a", ENDLESS) as events:
        for _ in range(5):
            next(events)
            router.process.send_signal(signal.SIGHUP)
            router.process.send_signal(signal.SIGHUP)
        router.process.send_signal(signal.SIGTERM)
        until(lambda: is_draining(router))
        for _ in range(5):
            next(events)
            router.process.send_signal(signal.SIGHUP)
    while router.process.poll() is None:
        router.process.send_signal(signal.SIGHUP)
    assert router.process.wait(PATIENCE_S) == 0
    assert "Traceback" not in router.log


def test_a_signal_ends_another_command(shell: Shell, slow_engine: Path) -> None:  # B-P12
    presets = write(shell.folder / "p.ini", "[a]\nhf-repo = user/a\n")
    with shell.start(("check", str(presets), "--engine", str(slow_engine)), {}, stdout=subprocess.DEVNULL) as process:
        until((shell.folder / "begun").exists)
        process.terminate()
        assert process.wait(PATIENCE_S) == -signal.SIGTERM
        assert process.stderr
        assert process.stderr.read() == ""
