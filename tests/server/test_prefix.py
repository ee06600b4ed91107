"""`--api-prefix`: a path below it is the path that follows it, and all else is nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from router.proxy.head import Head
from router.server.prefix import Prefix
from tests.conftest import Starter
from tests.routers import FAKE, chat
from tests.server.test_fast_path import BROWSER, STREAMS, answer, application

PREFIX = "/llm"
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("target", "inner"),
    [
        ("/llm/models", "/models"),
        ("/llm", "/"),
        ("/llm/", "/"),
        ("/llm//models", "//models"),
        ("/llm/llm/models", "/llm/models"),
        ("/%6clm/models", "/models"),
        ("/llm%2Fmodels", "/models"),
        ("/llm%2fmodels%2Fa", "/models%2Fa"),
        ("/%2Fllm/models", None),
        ("//llm/models", None),
        ("/llmodels", None),
        ("/LLM/models", None),
        ("/models", None),
        ("/x/../llm/models", None),
        ("/", None),
        ("", None),
        ("*", None),
    ],
)
def test_paths_below_and_outside(target: str, inner: str | None) -> None:
    found = Prefix(PREFIX).strip(unquote(target), target.encode())
    assert found == (None if inner is None else (unquote(inner), inner.encode()))


@given(st.text("/a%2Fl6cm.", max_size=12), st.sets(st.integers(0, 3)))
def test_path_and_target_stay_the_same_place(rest: str, encoded: set[int]) -> None:
    target = "".join(f"%{ord(c):02x}" if n in encoded else c for n, c in enumerate(PREFIX)) + f"/{rest}"
    found = Prefix(PREFIX).strip(unquote(target), target.encode())
    assert found == (unquote(f"/{rest}"), f"/{rest}".encode())


@pytest.mark.parametrize("keys", [(), ("secret",)])
def test_every_route_is_the_same_below_the_prefix(keys: tuple[str, ...]) -> None:
    plain, below = application(keys), application(keys, PREFIX)
    paths = [*sorted({route.path for route in plain.routes} - STREAMS), "/v1/models/a", "/nowhere", "/api/nowhere"]
    headers = [{}, BROWSER, {"authorization": "Bearer secret"}, {**BROWSER, "access-control-request-method": "POST"}]
    with (
        TestClient(plain, raise_server_exceptions=False) as one,
        TestClient(below, raise_server_exceptions=False) as other,
    ):
        for path in paths:
            for method in ("GET", "POST", "DELETE", "OPTIONS"):
                for more in headers:
                    asked = answer(one, method, path, **more)
                    got = answer(other, method, PREFIX + path, **more)
                    # An error names the path that the client sent.
                    assert (got[0], got[2].replace(PREFIX.encode(), b"")) == (asked[0], asked[2]), (method, path)


def test_no_path_is_served_without_the_prefix() -> None:
    app = application(("secret",), PREFIX)
    with TestClient(app, raise_server_exceptions=False) as client:
        for path in sorted({route.path for route in app.routes}):
            for target in (path, f"/{PREFIX}{path}", f"{PREFIX}{PREFIX}{path}", f"/x{PREFIX}{path}"):
                for method in ("GET", "POST", "DELETE"):
                    assert client.request(method, target).status_code == 401, (method, target)
                    told = client.request(method, target, headers={"x-api-key": "secret"})
                    assert told.status_code == 404, (method, target)
    with TestClient(application((), PREFIX)) as client:
        assert client.post(CHAT, headers={"origin": "https://evil.example"}).status_code == 403
        message = client.get("/v1/models").json()["error"]["message"]
        assert message == "There is no /v1/models here: every path begins with /llm."
        assert isinstance(client.get("/api/tags").json()["error"], str), "as Ollama's clients read it"
        assert client.get("/v1/messages").json()["type"] == "error"


def test_a_prefix_of_the_apis_own_words_shadows_nothing() -> None:
    app = application((), "/v1")
    with TestClient(app) as client:
        assert client.get("/v1/models").json() == client.get("/v1/v1/models").json()
        assert client.get("/models").status_code == 404


def test_a_head_below_the_prefix_takes_the_fast_path() -> None:
    """What is remembered for the next request with this head is the head that the child gets."""
    app = application((), PREFIX)
    host = [(b"host", b"localhost")]
    inner = app.inner_head(Head("POST", f"{PREFIX}{CHAT}", f"{PREFIX}{CHAT}?a=b".encode(), host))
    assert inner is not None
    assert (inner.path, inner.target, inner.headers) == (CHAT, f"{CHAT}?a=b".encode(), host)
    assert app.endpoint_for(inner, True) is not None
    assert app.inner_head(Head("POST", CHAT, CHAT.encode(), host)) is None


def test_a_redirect_stays_below_the_prefix() -> None:
    with TestClient(application((), PREFIX)) as client:
        told = client.get("/llm/health/?a=b", follow_redirects=False)
        assert (told.status_code, told.headers["location"]) == (307, "http://testserver/llm/health?a=b")


def test_a_router_below_a_prefix(routers: Starter, tiny_models: Path) -> None:
    """Both ways to a model: the fast path, and the ordinary one."""
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), LLAMA_ARG_API_PREFIX="/llm/")
    assert router.url.endswith(PREFIX)
    for _ in range(3):
        told = router.chat("tiny-a")
        assert (told.status_code, told.json()["model"]) == (200, "tiny-a")
    with router.stream("tiny-a", 3) as events:
        assert len(events.json()) >= 3
    assert router.client.get("/metrics").status_code == 200
    assert router.client.get("/api/tags").json()["models"]
    assert router.client.get("/api/version").status_code == 200
    assert router.client.post("/tokenize", json={"model": "tiny-a", "content": "x"}).status_code == 200
    assert router.client.get("/props?model=tiny-a").status_code == 200
    root = router.url.removesuffix(PREFIX)
    for path in (CHAT, f"/llm/llm{CHAT}", f"//llm{CHAT}"):
        for _ in range(2):
            assert httpx.post(root + path, json=chat("tiny-a")).status_code == 404
    assert httpx.post(f"{root}/%6Clm%2Fv1/chat/completions", json=chat("tiny-a")).status_code == 200


def test_commands_ask_the_router_below_its_prefix(
    routers: Starter, tiny_models: Path, shell: Callable[..., object]
) -> None:
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--api-prefix", PREFIX, "--host", "::")
    port = httpx.URL(router.url).port
    told = shell("estimate", "tiny-a", "--json", "--port", str(port), "--host", "::", "--api-prefix", PREFIX)
    assert '"verdict"' in str(told), "the running router's answer"
