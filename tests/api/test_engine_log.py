"""`GET /models/{name}/log`: what models' processes write, kept and followed. B-P11"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from router.api.endless import LAST_PIECES_S
from router.pool.logs import MAX_BYTES, OURS
from tests.conftest import Starter
from tests.routers import Router
from tests.test_logs import FORBIDDEN
from tests.waiting import until

Launch = Callable[..., Router]


def log_of(router: Router, model: str = "tiny-a", query: str = "", **headers: str) -> httpx.Response:
    return router.client.get(f"/models/{quote(model, safe='')}/log{query}", headers=headers)


def lines_of(router: Router, model: str = "tiny-a", query: str = "") -> list[str]:
    answer = log_of(router, model, query)
    assert answer.status_code == 200
    return answer.text.splitlines()


@contextmanager
def followed(
    router: Router, query: str = "?follow=1", model: str = "tiny-a"
) -> Iterator[tuple[httpx.Response, Iterator[str]]]:
    with router.client.stream("GET", f"/models/{model}/log{query}") as response:
        yield response, response.iter_lines()


def until_line(lines: Iterator[str], words: str) -> str:
    return next(line for line in lines if words in line)


def test_a_log_is_kept_past_the_end_of_its_process(launch: Launch, tiny_models: Path) -> None:
    router = launch("--models-dir", str(tiny_models), FAKE_SAY="hello from the engine")
    assert lines_of(router) == []  # it never ran
    assert router.chat("tiny-a").status_code == 200
    assert "hello from the engine" in lines_of(router)
    router.client.post("/models/unload", json={"model": "tiny-a"})
    until(lambda: not router.children())
    until(lambda: "ended with code" in lines_of(router)[-1])
    start, *said, end = lines_of(router)
    assert start.startswith(OURS)
    assert end.startswith(OURS)
    assert "hello from the engine" in said
    assert router.chat("tiny-a").status_code == 200
    both = lines_of(router)
    assert both.count("hello from the engine") == 2
    assert lines_of(router, query="?lines=3") == both[-3:]
    assert lines_of(router, query="?lines=0") == []
    assert lines_of(router, "tiny-b") == []
    answer = log_of(router)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_crash_can_be_read_about_afterwards(launch: Launch, tiny_models: Path) -> None:
    router = launch("--models-dir", str(tiny_models), FAKE_FAIL="GGML_ASSERT(x) failed", FAKE_EXIT_CODE="134")
    assert router.chat("tiny-a").status_code >= 500
    said = lines_of(router)
    assert "GGML_ASSERT(x) failed" in said
    assert said[-1].endswith("ended with code 134")


def test_it_is_followed_over_restarts_until_the_router_ends(launch: Launch, tiny_models: Path) -> None:
    router = launch("--models-dir", str(tiny_models), FAKE_SAY="hello from the engine")
    assert router.chat("tiny-a").status_code == 200
    with followed(router) as (response, lines), followed(router, "?lines=0&follow=true") as (_, new):
        assert response.headers["x-accel-buffering"] == "no"
        until_line(lines, "hello from the engine")
        router.client.post("/models/unload", json={"model": "tiny-a"})
        until_line(lines, "ended with code")
        assert "ended with code" in next(new)  # nothing of what was there before
        assert router.chat("tiny-a").status_code == 200
        for reader in (lines, new):
            until_line(reader, "a process starts")
            until_line(reader, "hello from the engine")
        router.process.send_signal(signal.SIGTERM)
        list(new), list(lines)  # both end, and are whole
    assert router.process.wait(10) == 0


def test_a_reader_that_does_not_read_costs_only_itself(launch: Launch, folder: Callable[..., Path]) -> None:
    models = folder("a", "b")
    router = launch("--models-dir", str(models), FAKE_STDOUT_FLOOD="20000", FAKE_LOAD_SECONDS="0")
    url = httpx.URL(router.url)
    with socket.create_connection((url.host, url.port)) as idle, followed(router, model="a") as (_, lines):
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.sendall(b"GET /models/a/log?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(10).startswith(b"HTTP/1.1")
        for _ in range(3):
            assert router.chat("a").status_code == 200
            router.client.post("/models/unload", json={"model": "a"})
            until_line(lines, "ended with code")
        assert router.chat("b").status_code == 200
        assert len(log_of(router, "a").content) <= MAX_BYTES
        router.process.send_signal(signal.SIGTERM)
        list(lines)
        router.process.wait(5 * LAST_PIECES_S + 5)
    assert router.process.returncode == 0


@pytest.mark.parametrize(
    "name", ["org/team/model:v1", "tiny-a", "a log/log", "100% sure", "Ünïcode", "settings/settings"]
)
def test_names_of_any_kind_and_aliases(launch: Launch, tiny_models: Path, tmp_path: Path, name: str) -> None:
    preset = tmp_path / "p.ini"
    preset.write_text(f"[{name}]\nmodel = {tiny_models}/tiny-a.gguf\nalias = short/one:x\nenv.FAKE_SAY = I am it\n")
    router = launch("--models-preset", str(preset))
    assert router.chat(name).status_code == 200
    for path in (quote(name, safe=""), quote(name, safe="/:"), quote("short/one:x")):
        answer = router.client.get(f"/models/{path}/log?lines=2000")
        assert answer.status_code == 200, path
        assert "I am it" in answer.text.splitlines()


def test_requests_that_are_wrong(launch: Launch, tiny_models: Path) -> None:
    router = launch("--models-dir", str(tiny_models))
    for model in ("nobody", "tiny-a/x", "../tiny-a"):
        answer = log_of(router, model)
        assert answer.status_code == 404
        assert answer.json()["error"]["message"]
    for lines in ("-1", "x", "1.5", "", "1_0", "٣", "1e3"):
        answer = log_of(router, query=f"?lines={lines}")
        assert answer.status_code == 400, lines
        assert "lines" in answer.json()["error"]["message"]
    assert log_of(router, query=f"?lines={'9' * 5000}").status_code == 200
    for query in ("?follow=1", ""):
        assert router.client.head(f"/models/tiny-a/log{query}").status_code == 200
    assert router.client.post("/models/tiny-a/log").status_code == 405


def test_it_takes_an_admin_key(launch: Launch, tiny_models: Path) -> None:  # B-T3
    router = launch("--models-dir", str(tiny_models), "--api-key", "reader-key", "--admin-key", "admin-key")
    for key, status in (("wrong", 401), ("reader-key", 403), ("admin-key", 200)):
        for query in ("?follow=0", "?lines=1"):
            assert log_of(router, query=query, authorization=f"Bearer {key}").status_code == status, key
    answer = log_of(router, authorization="Bearer admin-key", origin="https://evil.example")
    assert answer.status_code == 403


def test_hostile_text_is_text_and_no_key_shows(launch: Launch, tiny_models: Path, tmp_path: Path) -> None:  # B-T7
    said = tmp_path / "said"
    said.write_bytes(
        b"\x1b[2J\x1b[31mred\x1b[0m \x9b31m\n\xff\xfe\x00\r\n"
        b"key {key} twice {key}\n" + b"x" * 4000 + b"{key}\n"  # the key where a long line is cut
        + b"z" * 4000 + b"{key}" + b"z" * 200_000 + b"\n"
        + b"y" * 66_000 + b"{key}" + b"y" * 3_000_000 + b"\n"
        + b"half a line with {key} and no end"
    )  # fmt: skip
    router = launch("--models-dir", str(tiny_models), "--log-engines", "all", FAKE_SAY_FILE=str(said))
    with followed(router) as (_, following):
        assert router.chat("tiny-a").status_code == 200
        key = next(
            word.removeprefix("LLAMA_API_KEY=")
            for word in Path(f"/proc/{router.children()[0].pid}/environ").read_text().split("\0")
            if word.startswith("LLAMA_API_KEY=")
        )
        until_line(following, "and no end")
        router.client.post("/models/unload", json={"model": "tiny-a"})
        until_line(following, "ended with code")
    text = log_of(router).text
    for place in (text, router.log):
        assert not FORBIDDEN.search(place)
        assert "key *** twice ***" in place
        for size in range(8, len(key)):
            assert key[:size] not in place, size
    assert r"\x1b[2Jred " in text
    assert "half a line with *** and no end" in text
    assert len(text.encode()) < MAX_BYTES


@pytest.mark.parametrize("flags", [(), ("--log-colors", "on", "--log-timestamps", "--log-prefix", "-lv", "4")])
def test_what_real_engines_write(engine: str, flags: tuple[str, ...], routers: Starter, tiny_models: Path) -> None:
    """llama-server's own flags for its log still are for the engine."""
    router = routers("--engine", engine, "--models-dir", str(tiny_models), "--log-engines", "all", *flags)
    assert router.chat("tiny-a").status_code == 200
    said = until(lambda: lines if len(lines := lines_of(router)) > 10 else None)  # they may come after the answer
    assert not FORBIDDEN.search("\n".join(said))
    assert not any("\\x1b" in line for line in said)
    until(lambda: any(f"tiny-a: {line}" in router.log for line in said if not line.startswith(OURS)))
    until(lambda: router.log.count(" router.engine: tiny-a: ") > 10)


def test_news_that_nobody_reads_hold_up_no_end(launch: Launch, tiny_models: Path) -> None:
    router = launch("--models-dir", str(tiny_models))
    url = httpx.URL(router.url)
    with socket.create_connection((url.host, url.port)) as idle:
        idle.sendall(b"GET /models/sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(10).startswith(b"HTTP/1.1")
        router.process.send_signal(signal.SIGTERM)
        assert router.process.wait(LAST_PIECES_S + 10) == 0
