"""A preset is changed, and its model cannot be loaded any more: it goes on as before, and nobody gets an error."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Starter
from tests.routers import FAKE, Router
from tests.waiting import until

# What the preset gets, and what the warning says.
FAULTS = {
    "it crashes": ("env.FAKE_FAIL = no such thing\n", "no such thing"),
    "it is killed": ("env.FAKE_FAIL = x\nenv.FAKE_EXIT_CODE = -6\n", "SIGABRT"),
    "it never loads": ("env.FAKE_LOAD_SECONDS = 600\n", "4 s"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_change_that_only_fails_as_it_is_loaded(
    routers: Starter, tiny_models: Path, tmp_path: Path, fault: tuple[str, str]
) -> None:  # B-L15
    words, told = fault
    models = tmp_path / "models.ini"
    good = f"[a]\nmodel = {tiny_models / 'tiny-a.gguf'}\nctx-size = 512\n"
    models.write_text(good)
    router = routers("--engine", FAKE, "--models-preset", str(models), "--models-load-timeout", "4")
    assert router.chat("a").status_code == 200
    models.write_text(good + words)
    until(lambda: router.status("a") == "unloaded")  # it is watched
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: router.chat("a"), range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert router.loads("a") == 3
    status = router.listing()["a"]["status"]
    assert (status["value"], told in status["warning"]) == ("loaded", True), status
    assert "a: it goes on with the settings from before its change" in router.log
    # The preset is read again, as it is: nothing happens. It is mended: what runs is what is wanted.
    assert reload(router) == 200
    assert "warning" in router.listing()["a"]["status"]
    models.write_text(good)
    until(lambda: "warning" not in router.listing()["a"]["status"])
    assert router.chat("a").status_code == 200
    assert router.loads("a") == 3


def test_what_the_engine_refuses(routers: Starter, engine: str, tiny_models: Path, tmp_path: Path) -> None:  # B-L15
    models = tmp_path / "models.ini"
    good = f"[a]\nmodel = {tiny_models / 'tiny-a.gguf'}\nctx-size = 512\n"
    models.write_text(good)
    router = routers("--engine", engine, "--models-preset", str(models), "--no-models-preset-watch")
    assert router.chat("a").status_code == 200
    models.write_text(f"{good}lora = {tmp_path}/none.gguf\n")
    assert reload(router) == 200
    assert router.chat("a").status_code == 200
    status = router.listing()["a"]["status"]
    assert "--lora" not in status["args"]
    assert status["warning"]
    models.write_text(good.replace("512", "1024"))
    assert reload(router) == 200
    assert router.chat("a").status_code == 200
    status = router.listing()["a"]["status"]
    assert status["args"][status["args"].index("--ctx-size") + 1] == "1024"
    assert "warning" not in status


def reload(router: Router) -> int:
    return router.client.post("/models/reload").status_code
