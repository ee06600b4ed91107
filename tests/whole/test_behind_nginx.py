"""Behind nginx, with the lines that the README gives for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import nginx
from tests.conftest import Starter
from tests.nginx import NAME, in_front_of
from tests.routers import Events, chat

pytestmark = nginx.needed


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
