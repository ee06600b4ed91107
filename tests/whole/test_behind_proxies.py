"""Behind nginx and Caddy, with TLS, by the examples in `presets/proxies`. B-I4"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from router import settings
from router.engine.flags import default_table
from tests.conftest import Starter
from tests.proxies import EXAMPLES, FILES, NAME, in_front_of, replaced
from tests.routers import Events, Router, chat
from tests.waiting import until

each = pytest.mark.parametrize("kind", sorted(FILES))
CHAT = "/v1/chat/completions"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("p")  # short: it holds a unix socket


@pytest.fixture
def router(routers: Starter, fake: str, tiny_models: Path) -> Router:
    flags = ("--engine", fake, "--models-dir", str(tiny_models), "--allowed-hosts", NAME)
    return routers(*flags, FAKE_CHUNK_SECONDS="0.3")


@each
def test_tokens_come_as_they_are_made(router: Router, kind: str, folder: Path) -> None:  # B-I4
    paths = {CHAT: chat("tiny-a", 6, stream=True), "/api/chat": {**chat("tiny-a"), "options": {"num_predict": 6}}}
    with in_front_of(router, kind, folder) as client:
        for path, body in paths.items():
            with client.stream("POST", path, json=body) as response:
                assert response.status_code == 200
                lines = response.iter_lines()
                next(lines)
                # The proxy keeps nothing back: the first line is here while the engine still writes.
                assert router.figure("requests_active", "tiny-a") == 1, path
                assert len([*lines]) > 2


@each
def test_a_client_that_leaves_ends_its_generation(router: Router, kind: str, folder: Path) -> None:  # B-I4
    with in_front_of(router, kind, folder) as client:
        with client.stream("POST", CHAT, json=chat("tiny-a", 1000, stream=True)) as response:
            next(Events(response))
        until(lambda: router.figure("requests_active", "tiny-a") == 0)


@each
def test_a_prefix_holds_for_everything(routers: Starter, fake: str, tiny_models: Path, kind: str, folder: Path) -> None:
    """B-I4"""
    router = routers(
        "--engine", fake, "--models-dir", str(tiny_models), "--allowed-hosts", NAME, "--api-prefix", "/llm"
    )
    places = {"nginx": ("location / {", "location /llm/ {"), "caddy": ("reverse_proxy ", "reverse_proxy /llm/* ")}

    def below(text: str) -> str:
        head, mark, site = text.partition(f"\n{NAME} {{" if kind == "caddy" else "\nserver {")
        return head + mark + replaced(site, places[kind])

    with in_front_of(router, kind, folder, below) as client:
        assert client.post(f"/llm{CHAT}", json=chat("tiny-a")).status_code == 200
        moved = client.get("/llm/router/")
        assert (moved.status_code, str(moved.url.join(moved.headers["location"]))) == (
            *(308, f"https://{NAME}/llm/router"),
        )
        assert "<title>" in client.get("/llm/router").text
        assert CHAT not in client.get(CHAT).text, "what is not below the prefix does not reach the router"


@each
def test_a_large_body_comes_through(router: Router, kind: str, folder: Path) -> None:  # B-I4
    with in_front_of(router, kind, folder) as client:
        body = json.dumps({**chat("tiny-a"), "user": "x" * (20 << 20)}).encode()
        assert client.post(CHAT, content=body, headers={"content-type": "application/json"}).status_code == 200


@pytest.mark.parametrize(("keepalive", "status"), [("0.2", 200), ("0", 504)])
def test_a_proxy_without_patience_waits_for_a_load_that_says_something(  # B-I4
    routers: Starter, fake: str, tiny_models: Path, folder: Path, keepalive: str, status: int
) -> None:
    flags = ("--engine", fake, "--models-dir", str(tiny_models), "--allowed-hosts", NAME)
    router = routers(*flags, "--stream-keepalive", keepalive, FAKE_LOAD_SECONDS="4")

    def hasty(text: str) -> str:
        return replaced(text, ("proxy_read_timeout 3600s", "proxy_read_timeout 1s"))

    with in_front_of(router, "nginx", folder, hasty) as client:
        answer = client.post(CHAT, json=chat("tiny-a", stream=True))
        assert answer.status_code == status
        assert answer.text.rstrip().endswith("data: [DONE]") == (status == 200)


def test_the_examples_are_of_one_mind() -> None:
    found, _ = settings.parse((), {}, default_table())
    port = f"127.0.0.1:{found.port}"
    for path in EXAMPLES.iterdir():
        text = path.read_text()
        assert port in text
        assert NAME in text
        assert f"--allowed-hosts {NAME}" in text
        assert "--api-prefix /llm" in text
    traefik = yaml.safe_load((EXAMPLES / "traefik.yaml").read_text())["http"]
    (route,), (service,) = traefik["routers"].values(), traefik["services"].items()
    assert (route["rule"], route["service"]) == (f"Host(`{NAME}`)", service[0])
    assert service[1]["loadBalancer"]["servers"] == [{"url": f"http://{port}"}]
