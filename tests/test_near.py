"""The name that was probably meant is found among thousands, and the search is bounded."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz import fuzz

from router.errors import UnknownModel
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from router.near import MAX_CHARACTERS, MAX_NAMES, nearest

NAMES = tuple(f"org/some-model-{number:04}-instruct-GGUF:Q4_K_M" for number in range(2000))


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("org/some-model-1234-instruct-GGUF:Q4_KM", NAMES[1234]),
        ("org/some-modl-0042-instruct-GGUF:Q4_K_M", NAMES[42]),
        ("some-model-1999-instruct-GGUF:Q4_K_M", NAMES[1999]),
        ("org/some-model-0007-instruct-GGUF", NAMES[7]),
    ],
)
def test_a_typo_is_found_among_thousands_of_similar_names(wrong: str, meant: str) -> None:  # B-T6
    assert meant in nearest(wrong, NAMES, 3)


@pytest.mark.parametrize("name", ["x" * (MAX_CHARACTERS + 1), "x" * 10**6, "\ud800" * 50, "nothing like it", "\0", ""])
def test_names_like_nothing_have_no_neighbours(name: str) -> None:  # B-T6
    assert nearest(name, NAMES) == []


def test_only_so_many_names_are_compared() -> None:  # B-T6
    names = iter([str(number) for number in range(2 * MAX_NAMES)])
    nearest("org", names)
    assert next(names) == str(MAX_NAMES)


@given(st.sampled_from(NAMES), st.integers(0, 40), st.characters(codec="ascii", categories=["L", "N"]))
def test_one_letter_is_found_as_difflib_finds_it(name: str, place: int, letter: str) -> None:  # B-T6
    wrong = name[:place] + letter + name[place + 1 :]
    family = (*NAMES[:50], name)
    found = nearest(wrong, family, 3)
    # All names are alike, so others may be just as near; then they may stand in its place.
    assert name in found or all(fuzz.ratio(wrong, each) >= fuzz.ratio(wrong, name) for each in found)
    assert found
    assert nearest(wrong, [name]) == [name] == difflib.get_close_matches(wrong, [name])


def test_the_error_for_a_wrong_name_names_the_right_one() -> None:  # B-C1
    catalog = Catalog([ModelSpec(name, "models_dir", ()) for name in NAMES])
    with pytest.raises(UnknownModel, match="did you mean"):
        catalog.resolve(NAMES[3].replace("model", "modle"))
    with pytest.raises(UnknownModel, match="GET /v1/models"):
        catalog.resolve("z" * 5000)
