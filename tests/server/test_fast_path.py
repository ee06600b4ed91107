"""The shortest way to an endpoint answers as the whole application does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from starlette.testclient import TestClient

from router.api.app import create_app
from router.errors import ConfigError
from router.memory.need import Need
from router.models.catalog import Catalog
from router.models.changes import Changes
from router.models.spec import ModelSpec
from router.pool.pool import Pool
from router.proxy.gateway import Gateway
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from router.server.fast_path import FastPathApp
from router.wire.upstream import Upstream
from tests.fakes import FakeNode

BROWSER = {"origin": "http://localhost:3000"}  # its requests pass every check
OF_CORS = {
    *("access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers"),
    "vary",
}
OWN = {"x-request-id": "mine"}
STREAMS = {"/models/sse", "/router/stream"}  # have no end
OF_NOW = {"/metrics", "/router/state", "/router/requests"}  # tell what changes by itself, such as the time


def application(keys: Sequence[str] = (), prefix: str = "") -> FastPathApp:
    models = [ModelSpec(name, "models_dir", ()) for name in "ab"]
    pool = Pool(Catalog(models), [FakeNode()], Limits(), lambda spec: Need(Demand()))

    async def reload() -> Changes:
        raise ConfigError("a preset is bad")

    return create_app(Gateway(pool, Upstream()), keys=keys, reload=reload, forecast=NotImplemented, prefix=prefix)


def answer(client: TestClient, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    response = client.request(method, path, headers={**OWN, **headers}, follow_redirects=False)
    told = {name: value for name, value in response.headers.items() if name not in OF_CORS}
    if path.endswith(tuple(OF_NOW)) and response.status_code == 200:  # below a prefix too
        return (
            response.status_code,
            {name: told[name] for name in ("content-type", "x-request-id") if name in told},
            b"",
        )
    return response.status_code, told, response.content


@pytest.mark.parametrize("keys", [(), ("secret",)])
def test_both_ways_answer_the_same(keys: Sequence[str]) -> None:
    app = application(keys)
    paths = sorted({route.path for route in app.routes} - STREAMS)
    with TestClient(app, raise_server_exceptions=False) as client:
        for path in [*paths, "/nowhere", "/health/", "/v1/models/a", "/v1/chat/completions%0A"]:
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
                assert answer(client, method, path) == answer(client, method, path, **BROWSER), (method, path)


def test_defect_is_a_500_on_both_ways() -> None:
    """The application has no forecast: its endpoint raises TypeError."""
    client = TestClient(application(), raise_server_exceptions=False)
    told = answer(client, "GET", "/models/estimate?model=a")
    assert told == answer(client, "GET", "/models/estimate?model=a", **BROWSER)
    assert (told[0], b"has a defect" in told[2]) == (500, True)
    with pytest.raises(TypeError):  # uvicorn gets the exception too
        TestClient(application()).get("/models/estimate?model=a")
