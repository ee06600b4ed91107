"""A projector that lies beside a model, and is not the model's: on the real engines."""

from __future__ import annotations

from pathlib import Path

from router import demo
from tests.conftest import Starter
from tests.projector_shapes import small_projector
from tests.waiting import until


def test_a_model_beside_a_strange_projector_serves_text(engine: str, routers: Starter, tmp_path: Path) -> None:  # B-L18
    models = tmp_path / "models"
    (models / "strange").mkdir(parents=True)
    (models / "broken").mkdir()
    for name in ("strange", "broken"):
        demo.write_tiny(models / name / f"{name}.gguf")
    small_projector(models / "strange", 128)
    (models / "broken" / "mmproj.gguf").write_bytes(b"GGUF")
    preset = tmp_path / "preset.ini"
    text = f"[named]\nmodel = {models}/strange/strange.gguf\nmmproj = {models}/strange/mmproj.gguf\n"
    preset.write_text(text)
    router = routers("--engine", engine, "--models-dir", str(models), "--models-preset", str(preset))
    until(lambda: all("warning" in router.listing()[name]["status"] for name in ("strange", "broken")))
    for name, says in (("strange", "the projector of another model"), ("broken", "damaged")):
        assert router.chat(name).status_code == 200
        entry = router.listing()[name]
        assert says in entry["status"]["warning"]
        assert entry["architecture"]["input_modalities"] == ["text"]
        assert "error" not in entry["status"]
        assert router.log.count(f"{name}: its projector is left out") == 1
    assert not any("--mmproj" in child.cmdline() for child in router.children())
    answer = router.chat("named")
    assert answer.status_code >= 400
    assert "rows of 128, and this model takes 64" in answer.json()["error"]["message"]
    # A reload changes nothing: what was asked for is the same.
    before = {child.pid for child in router.children()}
    router.client.post("/models/reload").raise_for_status()
    assert router.chat("strange").status_code == 200
    assert {child.pid for child in router.children()} == before
