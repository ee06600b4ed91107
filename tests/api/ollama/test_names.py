"""Names of models as Ollama's clients write them."""

from __future__ import annotations

import pytest

from router.api.ollama.names import Names
from router.api.ollama.options import AliasDefaults
from router.errors import InvalidRequest, UnknownModel
from router.models.created import MAX_NAMES
from tests.api.ollama.pools import pool_of, spec


async def test_a_name_is_found_with_a_tag_and_with_a_prefix() -> None:  # B-C1
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


async def test_the_number_of_aliases_is_limited() -> None:
    names = Names(pool_of(spec("m")))
    found = names.find("m")
    for n in range(MAX_NAMES):
        names.add(f"m{n}", found, AliasDefaults())
    with pytest.raises(InvalidRequest, match="delete one"):
        names.add("more", found, AliasDefaults())
    names.add("m0", found, AliasDefaults("other"))  # may change
    assert names.find("m0").defaults.system == "other"
