"""`keep_alive`, the time that a request wants its model to stay, in every API."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from router.errors import InvalidRequest
from router.proxy.keep_alive import MAX_KEEP_ALIVE_S, keep_alive
from tests.conftest import Starter
from tests.routers import FAKE
from tests.waiting import until


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        *((0, 0), (-1, math.inf), (2.5, 2.5), ("0", 0), ("-1", math.inf), ("300", 300), ("5m", 300), ("1h30m", 5400)),
        *(("1.5h", 5400), ("500ms", 0.5), ("10ns", 1e-8), ("-5m", math.inf), ("24h", 86400), (None, None), ("+1s", 1)),
        *(
            (1e300, MAX_KEEP_ALIVE_S),
            (10**400, MAX_KEEP_ALIVE_S),
            ("999999999h", MAX_KEEP_ALIVE_S),
            (-(10**400), math.inf),
        ),
        (math.inf, MAX_KEEP_ALIVE_S),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_keep_alive_is_seconds_or_a_duration(said: Any, seconds: float | None) -> None:  # B-C6
    assert keep_alive({"keep_alive": said}) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("said", ["", "5 minutes", "m", "5m!", "1h-5m", "--1", [], {}, True, math.nan, "1e3", "९s"])
def test_a_wrong_keep_alive_is_refused(said: Any) -> None:
    with pytest.raises(InvalidRequest, match="keep_alive"):
        keep_alive({"keep_alive": said})


def test_a_request_of_any_api_says_how_long_its_model_stays(routers: Starter, tiny_models: Path) -> None:  # B-C6
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--models-max", "1")
    body: dict[str, Any] = {"model": "tiny-a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    for path in ("/v1/chat/completions", "/v1/messages"):
        assert router.client.post(path, json={**body, "keep_alive": "1h"}).status_code == 200
        assert router.status("tiny-a") == "loaded"
        assert router.client.post(path, json={**body, "keep_alive": 0}).status_code == 200
        until(lambda: router.status("tiny-a") == "unloaded")
        wrong = router.client.post(path, json={**body, "keep_alive": "soon"})
        assert wrong.status_code == 400
        assert "keep_alive" in wrong.text
    assert router.client.post("/v1/embeddings", json={"model": "tiny-a", "input": "x", "keep_alive": -1}).is_success
    assert router.chat("tiny-b").is_success, "one client's wish does not lock others out"
    assert router.status("tiny-a") == "unloaded"
