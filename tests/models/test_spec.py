from __future__ import annotations

from pathlib import Path

from router.engine.flags import parse
from router.models.spec import ModelSpec
from tests.models.rig import TABLE, one_preset


def test_repr_shows_no_secret() -> None:
    args = parse(["--hf-token", "secret", "--model-url", "http://user:secret@host/m.gguf"], TABLE)
    spec = ModelSpec("a", "preset", args, model_path=Path("/m/a.gguf"), env=(("TOKEN", "secret"),))
    assert repr(spec) == "<ModelSpec a from preset: /m/a.gguf>"
    assert "secret" not in repr(one_preset("hf-token = secret\nenv.TOKEN = secret"))
