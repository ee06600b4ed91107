"""llama.cpp's endpoints of a router: one model of the list, and presets that are read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.api.error_shapes import error_of
from tests.routers import Router, chat
from tests.waiting import until


def test_a_model_is_found_by_its_name(router: Router) -> None:  # B-C2
    listed = router.listing()
    for name in ("tiny-a", "org/team/model:v1"):
        assert router.client.get(f"/v1/models/{name}").json() == listed[name]
    assert router.client.get("/v1/models/org%2Fteam%2Fmodel%3Av1").json()["id"] == "org/team/model:v1"
    response = router.client.get("/v1/models/org/team/model")
    assert (response.status_code, error_of(response)["type"]) == (404, "not_found_error")
    answer = router.client.post("/v1/chat/completions", json=chat("org/team/model:v1")).json()
    assert answer["model"] == "org/team/model:v1"


def test_a_reload_takes_good_presets_only(
    launch: Callable[..., Router], tiny_models: Path, tmp_path: Path
) -> None:  # B-L13
    presets = tmp_path / "presets.ini"
    same = f"[same]\nmodel = {tiny_models}/tiny-a.gguf\n"
    text = f"{same}[other]\nmodel = {tiny_models}/tiny-b.gguf\n[old]\nmodel = {tiny_models}/tiny-b.gguf\n"
    presets.write_text(text)
    router = launch("--models-preset", str(presets))
    for model in ("same", "other"):
        assert router.chat(model).status_code == 200
    presets.write_text(f"{text}no-such-option = 1\n")
    before = router.listing()
    for response in (router.client.post("/models/reload"), router.client.get("/models?reload=1")):
        assert response.status_code == 400
        message = error_of(response)["message"]
        assert "presets.ini:7" in message
        assert "no-such-option" in message
    assert router.listing() == before
    presets.write_text(f"{same}description = said anew\n[other]\nmodel = {tiny_models}/tiny-c.gguf\n[new]\nmodel = x\n")
    answer = router.client.post("/models/reload").json()
    assert answer == {"success": True, "added": ["new"], "changed": ["other"], "removed": ["old"], "kept": ["same"]}
    assert router.listing().keys() == {"same", "other", "new"}
    assert router.status("same") == "loaded"
    assert router.listing()["same"]["description"] == "said anew"
    until(lambda: router.status("other") == "unloaded")
    assert router.chat("same").status_code == 200
    assert router.loads("same") == 1
    assert router.chat("old").status_code == 404
