"""What Ollama's clients see of models, without processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.api.ollama.library import Library
from router.api.ollama.names import Names
from router.api.ollama.options import AliasDefaults
from router.errors import UnknownModel
from router.models.catalog import Catalog
from tests.api.ollama.pools import pool_of, spec


async def test_an_alias_goes_with_its_model(tmp_path: Path) -> None:
    gone = tmp_path / "gone.gguf"
    pool = pool_of(spec("m"), spec("gone", gone))
    names = Names(pool)
    library = Library(pool, names)
    names.add("mine", names.find("gone"), AliasDefaults())
    entries = {entry["name"]: entry for entry in await library.tags()}
    assert entries.keys() == {"m", "gone", "mine"}
    assert len({entries[name]["digest"] for name in ("m", "gone")}) == 2
    assert entries["m"]["modified_at"] == "1970-01-01T00:00:00Z"
    assert entries["mine"]["details"]["parent_model"] == "gone"
    await pool.exchange.replace(Catalog((spec("m"),)))
    assert [entry["name"] for entry in await library.tags()] == ["m"]
    with pytest.raises(UnknownModel):
        names.find("mine")


async def test_a_model_without_a_file_is_shown_as_far_as_it_is_known() -> None:
    pool = pool_of(spec("m"))
    names = Names(pool)
    shown = await Library(pool, names).show(names.find("m"), verbose=False)
    assert (shown["model_info"], shown["template"], shown["capabilities"]) == ({}, "", ["completion"])


async def test_arrays_are_shown_with_verbose(tiny_models: Path) -> None:
    pool = pool_of(spec("m", tiny_models / "tiny-a.gguf"))
    names = Names(pool)
    library = Library(pool, names)
    for verbose in (False, True):
        info = (await library.show(names.find("m"), verbose=verbose))["model_info"]
        assert (info["tokenizer.ggml.scores"] is not None) == verbose
        assert info["tokenizer.ggml.tokens"] is None, "headers are read without their vocabulary"
