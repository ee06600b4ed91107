"""The application from outside: which requests need a key, and where it listens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.api.error_shapes import error_of
from tests.routers import Router, chat

CLOSED = (
    *("GET /nowhere", "POST /v1/models", "GET /health/", "GET /props", "GET /metrics", "GET /models"),
    *("GET /v1/models", "GET /v1/models/tiny-a", "GET /models/sse", "POST /models/load", "POST /models/unload"),
    *("POST /models/reload", "GET /slots", "POST /v1/chat/completions", "POST /v1/messages", "POST /completion"),
    *("OPTIONS /models", "GET /%2fhealth"),
)


@pytest.mark.parametrize("key", ["first", "söcond", "third"])
@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_each_key_is_accepted_in_both_headers(router: Router, key: str, header: str) -> None:
    with httpx.Client(base_url=router.url) as client:
        value = key if header == "x-api-key" else f"Bearer {key}"
        for text, status in ((value, 200), (value[:-1], 401), (value + "x", 401)):
            assert client.get("/v1/models", headers=[(header.encode(), text.encode())]).status_code == status


def test_only_health_needs_no_key(router: Router) -> None:
    with httpx.Client(base_url=router.url) as client:
        for path in ("/health", "/v1/health"):
            assert client.get(path).json() == {"status": "ok"}
        for route in CLOSED:
            response = client.request(*route.split())
            assert (route, response.status_code) == (route, 401)
            assert error_of(response)["type"] == "authentication_error"


def test_the_log_shows_no_key(router: Router) -> None:
    assert "third" not in router.log
    assert "söcond" not in router.log


def test_it_listens_on_several_hosts(launch: Callable[..., Router], tiny_models: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    router = launch("--models-dir", str(tiny_models), "--host", f"127.0.0.1,::1,{path}")
    [line] = [line for line in router.log.splitlines() if "is listening on" in line]
    urls = re.findall(r"http://\S+:\d+", line)
    assert [url.rpartition(":")[0] for url in urls] == ["http://127.0.0.1", "http://[::1]"]
    for url in urls:
        with httpx.Client(base_url=url) as client:
            assert client.get("/health").status_code == 200
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://router") as client:
        assert client.post("/v1/chat/completions", json=chat("tiny-a")).json()["model"] == "tiny-a"


def test_an_offer_of_another_protocol_is_declined(router: Router) -> None:
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"}
    for _ in range(2):  # the second one on a kept connection
        answer = router.client.post("/v1/chat/completions", json=chat("tiny-a"), headers=offer)
        assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")
    assert "Unsupported upgrade" not in router.log
