"""Behind nginx, with the lines that the README gives for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Starter
from tests.routers import Events, Router, chat
from tests.waiting import until

README = Path(__file__).parents[2] / "README.md"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
NAME = "llm.example.org"
CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr; {user}
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen unix:{folder}/front.sock;
    {location}
  }}
}}
"""

pytestmark = pytest.mark.skipif(NGINX is None and not os.environ.get("CI"), reason="nginx is not installed")


@contextmanager
def in_front_of(router: Router, folder: Path, *, buffers: bool = False) -> Iterator[httpx.Client]:
    """A client of an nginx that passes everything on to the router. `buffers`: as nginx does without our line."""
    assert NGINX, "nginx is not installed: apt-get install nginx-light"
    found = re.search(r"<!-- nginx -->\n```nginx\n(.*?)```", README.read_text(), re.S)
    assert found
    location = found[1].replace("http://127.0.0.1:8080", router.url)
    if buffers:
        assert "proxy_buffering off;" in location
        location = location.replace("proxy_buffering off;", "")
    user = "user root;" if os.getuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, location=location, user=user))
    process = subprocess.Popen([NGINX, "-p", folder, "-c", config, "-e", "stderr"], stdin=subprocess.DEVNULL)
    try:
        until(lambda: (folder / "front.sock").exists() or process.poll() is not None)
        assert process.poll() is None, "nginx refuses the lines of the README"
        transport = httpx.HTTPTransport(uds=str(folder / "front.sock"))
        with httpx.Client(transport=transport, base_url=f"http://{NAME}", timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("n")  # short: it holds a unix socket


def test_streams_come_through_as_they_are_made(routers: Starter, fake: str, tiny_models: Path, folder: Path) -> None:
    router = routers(
        "--engine", fake, "--models-dir", str(tiny_models), "--allowed-hosts", NAME, FAKE_CHUNK_SECONDS="0.3"
    )
    with in_front_of(router, folder) as client:
        body = chat("tiny-a", 8, stream=True)
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200
            events = Events(response)
            next(events)
            # nginx keeps nothing back: the first event is here while the engine still writes.
            assert 'llama_router_requests_active{model="tiny-a"} 1\n' in router.client.get("/metrics").text
            assert [*events][-1] == "[DONE]"


MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
GENERATIONS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**MESSAGES, "stream": True},
    "/v1/messages": {**MESSAGES, "stream": True, "max_tokens": 8},
    "/v1/responses": {"input": "hi", "stream": True},
    "/api/chat": MESSAGES,
    "/api/generate": {"prompt": "hi"},
}


def test_nginx_keeps_no_stream_back(  # B-O6
    routers: Starter, fake: str, tiny_models: Path, folder: Path
) -> None:
    router = routers(
        *("--engine", fake, "--models-dir", str(tiny_models), "--allowed-hosts", NAME),
        FAKE_CHUNK_SECONDS="0.1",
        FAKE_TOKENS="10",
    )
    with in_front_of(router, folder, buffers=True) as client:
        for path, body in GENERATIONS.items():
            with client.stream("POST", path, json={"model": "tiny-a", **body}) as response:
                assert response.status_code == 200, path
                assert len([*response.iter_raw()]) > 2, path  # what nginx has kept back comes in one piece
                assert "x-accel-buffering" not in response.headers  # it is for nginx
        for path in ("/models/sse", "/router/stream", "/models/tiny-a/log?follow=1"):
            with client.stream("GET", path) as response:
                assert response.status_code == 200, path
                assert next(response.iter_raw()), path  # none of them ends


def test_its_own_name_needs_a_flag(routers: Starter, fake: str, tiny_models: Path, folder: Path) -> None:
    router = routers("--engine", fake, "--models-dir", str(tiny_models))
    with in_front_of(router, folder) as client:
        answer = client.get("/models")
    assert answer.status_code == 403
    assert "--allowed-hosts" in answer.json()["error"]["message"]
