"""A file that is replaced under a running model is another model: a reload and a load see it, a request does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from router import demo
from tests.conftest import Starter
from tests.routers import Router
from tests.waiting import until

PRESETS = """
[m]
model = {0}/m.gguf
spec-draft-model = {0}/d.gguf
chat-template-file = {0}/t.jinja
lora = {0}/l.gguf
[other]
model = {0}/other.gguf
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_models: Path) -> Path:
    for name, source in (("m", "tiny-a"), ("d", "tiny-b"), ("l", "tiny-b"), ("other", "tiny-b")):
        shutil.copy(tiny_models / f"{source}.gguf", tmp_path / f"{name}.gguf")
    (tmp_path / "t.jinja").write_text(demo.TEMPLATE)
    (tmp_path / "p.ini").write_text(PRESETS.format(tmp_path))
    return tmp_path


def pid(router: Router, model: str) -> int:
    process = router.client.get(f"/models/{model}/settings").json()["process"]
    return int(process["pid"]) if process else 0


@pytest.mark.parametrize("name", ["m.gguf", "d.gguf", "t.jinja", "l.gguf"])
def test_a_reload_restarts_what_runs_with_an_old_file(routers: Starter, fake: str, folder: Path, name: str) -> None:
    router = routers("--engine", fake, "--models-preset", str(folder / "p.ini"))  # B-L16
    for model in ("m", "other"):
        assert router.chat(model).status_code == 200
    first, other = pid(router, "m"), pid(router, "other")
    assert router.client.post("/models/reload").json()["changed"] == []
    shutil.copy(folder / name, folder / "new")
    (folder / "new").replace(folder / name)
    assert router.chat("m").status_code == 200
    assert pid(router, "m") == first  # what runs goes on until it is looked at
    assert router.client.post("/models/reload").json()["changed"] == ["m"]
    assert router.chat("m").status_code == 200
    assert pid(router, "m") != first
    assert pid(router, "other") == other
    assert router.client.post("/models/reload").json()["changed"] == []


def test_requests_end_on_the_old_file_and_a_load_brings_the_new_one(  # B-L16
    routers: Starter, fake: str, folder: Path, tiny_models: Path
) -> None:
    router = routers("--engine", fake, "--models-preset", str(folder / "p.ini"), FAKE_CHUNK_SECONDS="0.02")
    with router.stream("m", 20) as events:
        next(events)
        first = pid(router, "m")
        shutil.copy(tiny_models / "tiny-c.gguf", folder / "new")
        (folder / "new").replace(folder / "m.gguf")
        assert router.client.post("/models/reload").json()["changed"] == ["m"]
        assert len(events.json()) == 20
    until(lambda: pid(router, "m") != first)
    assert router.listing()["m"]["meta"]["n_params"]
    answer = router.client.post("/models/load", json={"model": "m", "wait": True}).json()
    second = pid(router, "m")
    shutil.copy(tiny_models / "tiny-a.gguf", folder / "m.gguf")
    answer = router.client.post("/models/load", json={"model": "m", "wait": True}).json()
    assert answer["status"] == "loaded"
    assert pid(router, "m") not in (first, second)
    assert router.client.post("/models/load", json={"model": "m", "wait": True}).json()["status"] == "already_loaded"
