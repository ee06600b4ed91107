"""What load balancers and service managers ask: is it alive, and may clients come? B-O6"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.routers import Router
from tests.waiting import until

Launch = Callable[..., Router]


@pytest.fixture
def preset(tmp_path: Path, tiny_models: Path) -> Callable[..., Path]:
    def write(*sections: str) -> Path:
        file = tmp_path / "p.ini"
        file.write_text(
            "".join(f"[m{index}]\nmodel = {tiny_models}/tiny-a.gguf\n{more}\n" for index, more in enumerate(sections))
        )
        return file

    return write


def test_it_is_ready_when_the_models_of_the_start_have_been_loaded(launch: Launch, preset: Callable[..., Path]) -> None:
    early = "load-on-startup = true\nenv.FAKE_LOAD_SECONDS = 0.5"
    router = launch("--models-preset", str(preset(early, "", early)))
    answer = router.client.get("/readyz")
    assert answer.status_code == router.client.head("/readyz").status_code == 503
    assert answer.json()["status"] == "loading"
    assert answer.json()["error"]["code"] == 503
    assert int(answer.headers["retry-after"]) > 0
    for path in ("/livez", "/health"):
        assert router.client.get(path).json() == {"status": "ok"}
    until(lambda: router.client.get("/readyz").status_code == 200)
    assert (router.status("m0"), router.status("m1"), router.status("m2")) == ("loaded", "unloaded", "loaded")
    # What loads later is no reason to look elsewhere.
    router.client.post("/models/load", json={"model": "m1"})
    assert router.client.get("/readyz").status_code == 200


def test_a_model_that_cannot_be_loaded_keeps_nobody_away(launch: Launch, preset: Callable[..., Path]) -> None:
    router = launch("--models-preset", str(preset("load-on-startup = true\nenv.FAKE_FAIL = broken", "")))
    until(lambda: router.client.get("/readyz").status_code == 200)
    assert "could not load m0 at startup" in router.log
    assert router.chat("m1").status_code == 200


def test_without_models_for_the_start_it_is_ready_at_once(launch: Launch, tiny_models: Path) -> None:
    router = launch("--models-dir", str(tiny_models))
    assert router.client.get("/readyz").json() == {"status": "ok"}
