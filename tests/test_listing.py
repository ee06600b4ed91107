"""What pickers are told of models, whether they run or not."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Starter


def test_what_a_picker_needs(routers: Starter, tiny_models: Path, tmp_path: Path) -> None:
    # B-C2
    ini = tmp_path / "models.ini"
    ini.write_text(
        f"[a]\nmodel = {tiny_models / 'tiny-a.gguf'}\nalias = gpt\ntags = chat, small\ndescription = A tiny one.\n"
        f"[b]\nmodel = {tiny_models / 'tiny-b.gguf'}\nctx-size = 512\nparallel = 1\n"
    )
    router = routers("--engine", "embedded", "--models-preset", str(ini))
    before = router.listing()
    a, b = before["a"], before["b"]
    assert a["details"]["format"] == "gguf"
    assert (a["details"]["family"], a["details"]["quantization_level"]) == ("llama", a["meta"]["quantization"])
    assert a["details"]["parameter_size"].endswith("K")
    assert a["size"] == (tiny_models / "tiny-a.gguf").stat().st_size
    assert (a["info"]["meta"]["description"], a["info"]["meta"]["tags"]) == (
        "A tiny one.",
        [{"name": "chat"}, {"name": "small"}],
    )
    assert a["info"]["meta"]["capabilities"] == {"vision": False, "usage": True, "builtin_tools": False}
    assert (a["context"]["configured"], b["context"]["configured"]) == (None, 512)
    assert b["context"] == {"trained": a["context"]["trained"], "configured": 512, "effective": 512}
    assert router.chat("b").status_code == 200
    after = router.listing()["b"]
    assert after["status"]["value"] == "loaded"
    assert {key: after[key] for key in ("details", "context", "size", "info")} == {
        key: b[key] for key in ("details", "context", "size", "info")
    }
