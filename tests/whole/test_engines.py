"""Several engines behind one router, by the preset key `engine`."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import Starter
from tests.routers import FAKE, Router, alias


def commands(router: Router) -> dict[str, list[str]]:
    return {alias(child): child.cmdline() for child in router.children()}


def test_each_model_runs_on_its_own_engine(engine: str, routers: Starter, tiny_models: Path, tmp_path: Path) -> None:
    model = tiny_models / "tiny-a.gguf"
    presets = tmp_path / "presets.ini"
    presets.write_text(
        f"[real]\nmodel = {model}\nctx-size = 256\n\n[fake]\nmodel = {model}\nengine = {FAKE}\n\n"
        f"[gone]\nmodel = {model}\nengine = /no/such/llama-server\nfrobnicate = 3\n"
    )
    router = routers("--engine", engine, "--models-preset", str(presets))
    assert router.chat("real").status_code == 200
    assert router.chat("fake").json()["choices"][0]["message"]["content"].startswith("one")
    found = commands(router)
    assert FAKE in found["fake"]
    assert FAKE not in found["real"]
    answer = router.chat("gone")
    assert answer.status_code >= 400
    assert "engine = /no/such/llama-server: there is no /no/such/llama-server" in answer.text
    assert "there is no" in router.listing()["gone"]["problem"]
    for wish in ({"engine": "/bin/sh"}, {"extra_args": ["--engine", "/bin/sh"]}):  # only the operator names engines
        assert router.client.post("/models/load", json={"model": "real", **wish}).status_code == 400
    assert commands(router) == found


def test_an_engine_that_was_upgraded_is_used_from_the_next_load_on(
    routers: Starter, tiny_models: Path, tmp_path: Path
) -> None:
    program = tmp_path / "llama-server"

    def install(build: str) -> None:
        (tmp_path / "new").write_text(f'#!/bin/sh\n# {build}\nexec {FAKE} "$@"\n')
        (tmp_path / "new").chmod(0o755)
        os.replace(tmp_path / "new", program)

    install("old")
    presets = tmp_path / "presets.ini"
    presets.write_text(f"[a]\nmodel = {tiny_models}/tiny-a.gguf\nengine = {program}\n")
    router = routers("--engine", FAKE, "--models-preset", str(presets))
    load = {"model": "a", "wait": True}
    assert router.client.post("/models/load", json=load).status_code == 200
    assert router.chat("a").status_code == 200
    (before,) = [child.pid for child in router.children()]
    router.client.post("/models/load", json=load)
    assert [child.pid for child in router.children()] == [before]
    install("new")
    router.client.post("/models/load", json=load)
    assert router.chat("a").status_code == 200
    assert [child.pid for child in router.children()] != [before]
