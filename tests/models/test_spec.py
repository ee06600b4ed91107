from __future__ import annotations

from pathlib import Path

from router.engine.flags import parse
from router.models.spec import ModelSpec
from tests.models.rig import TABLE, one_preset


def with_args(*argv: str) -> ModelSpec:
    return ModelSpec("m", "preset", parse(argv, TABLE))


def test_files_to_prefetch_are_in_the_order_of_the_engine() -> None:
    spec = with_args("--mmproj", "p.gguf", "-md", "d.gguf", "-m", "m-00001-of-00002.gguf", "-c", "4096")
    found = [file.name for file in spec.files_to_prefetch]
    assert found == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "d.gguf", "p.gguf"]


def test_files_that_bypass_the_page_cache_are_not_prefetched() -> None:
    assert not with_args("-m", "m.gguf", "--load-mode", "dio").files_to_prefetch
    assert with_args("-m", "m.gguf", "--load-mode", "none").files_to_prefetch
    assert not with_args("-hf", "user/repo").files_to_prefetch


def test_repr_shows_no_secret() -> None:
    args = parse(["--hf-token", "secret", "--model-url", "http://user:secret@host/m.gguf"], TABLE)
    spec = ModelSpec("a", "preset", args, model_path=Path("/m/a.gguf"), env=(("TOKEN", "secret"),))
    assert repr(spec) == "<ModelSpec a from preset: /m/a.gguf>"
    assert "secret" not in repr(one_preset("hf-token = secret\nenv.TOKEN = secret"))
