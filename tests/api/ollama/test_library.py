"""Ollama's view of a catalog, without processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.api.details import parameter_size
from router.api.ollama.library import Library
from router.api.ollama.names import MAX_ALIASES, Names
from router.api.ollama.options import AliasDefaults
from router.errors import InvalidRequest, UnknownModel
from router.memory.estimate import Need
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.pool.pool import Pool
from router.scheduling.limits import Limits
from router.scheduling.resources import Demand
from tests.fakes import FakeNode


def pool_of(*models: ModelSpec) -> Pool:
    return Pool(Catalog(models), [FakeNode()], Limits(), lambda spec: Need(Demand()))


def spec(name: str, path: Path | None = None) -> ModelSpec:
    return ModelSpec(name, "cache", (), path)


@pytest.mark.parametrize(
    ("count", "told"),
    [
        *((7_615_616_512, "7.6B"), (8_000_000_000, "8B"), (134_512, "135K"), (596_049_920, "596.05M"), (12, "12")),
        (1_026_408_232_448, "1.0T"),
    ],
)
def test_parameters_as_people_say_them(count: int, told: str) -> None:
    assert parameter_size(count) == told


async def test_names_with_tags_and_prefixes() -> None:  # B-C1
    names = Names(pool_of(spec("user/repo:Q8_0"), spec("user/repo:Q4_K_M"), spec("gpt.2"), spec("own:latest")))
    found = {name: names.find(name).spec.name for name in ("user/repo:latest", "user/repo", "gpt.2:latest")}
    assert found == {"user/repo:latest": "user/repo:Q4_K_M", "user/repo": "user/repo:Q4_K_M", "gpt.2:latest": "gpt.2"}
    assert names.find("own:latest").spec.name == "own:latest"
    assert names.find_ignoring_prefix("here.gpt.2").spec.name == "gpt.2"
    for name in ("gpt", "here.gpt", ".", "latest"):
        with pytest.raises(UnknownModel):
            names.find_ignoring_prefix(name)
    with pytest.raises(InvalidRequest):
        names.find(None)


async def test_names_come_to_an_end() -> None:
    names = Names(pool_of(spec("m")))
    found = names.find("m")
    for n in range(MAX_ALIASES):
        names.add(f"m{n}", found, AliasDefaults())
    with pytest.raises(InvalidRequest, match="delete one"):
        names.add("more", found, AliasDefaults())
    names.add("m0", found, AliasDefaults("other"))  # may change
    assert names.find("m0").defaults.system == "other"


async def test_a_name_of_a_model_that_has_gone_is_none(tmp_path: Path) -> None:
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


async def test_what_is_not_here_yet_is_shown_as_far_as_it_is_known() -> None:
    pool = pool_of(spec("m"))
    names = Names(pool)
    shown = await Library(pool, names).show(names.find("m"), verbose=False)
    assert (shown["model_info"], shown["template"], shown["capabilities"]) == ({}, "", ["completion"])


async def test_arrays_are_told_to_whom_asks(tiny_models: Path) -> None:
    pool = pool_of(spec("m", tiny_models / "tiny-a.gguf"))
    names = Names(pool)
    library = Library(pool, names)
    for verbose in (False, True):
        told = (await library.show(names.find("m"), verbose=verbose))["model_info"]
        assert (told["tokenizer.ggml.scores"] is not None) == verbose
        assert told["tokenizer.ggml.tokens"] is None, "headers are read without their vocabulary"
