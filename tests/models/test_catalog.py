from __future__ import annotations

from pathlib import Path

import pytest

from router.errors import CatalogError, InvalidRequest, UnknownModel
from router.models.catalog import Catalog
from router.models.spec import ModelSpec
from tests.models.rig import Build, put, put_cached


@pytest.fixture
def three(build: Build, models: Path, cache: Path) -> Catalog:
    put(models / "qwen.gguf")
    put(models / "llama.gguf")
    put_cached(cache, "user/repo", "m-Q2_K.gguf", "m-Q4_K_M.gguf")
    put_cached(cache, "user/other", "m-Q8_0.gguf", "m-Q2_K.gguf")
    return build(models_dir=models)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen", "qwen"),
        ("user/repo", "user/repo:Q4_K_M"),
        ("user/repo:q2_k", "user/repo:Q2_K"),
        ("user/other", "user/other:Q8_0"),
        ("Qwen", "qwen"),
        ("QWEN:latest", "qwen"),
        ("User/Repo:latest", "user/repo:Q4_K_M"),
        ("USER/other:q2_K", "user/other:Q2_K"),
    ],
)
def test_names_resolve_to_models(three: Catalog, name: str, expected: str) -> None:
    assert three.resolve(name).name == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf.co/user/repo:q2_k", "user/repo:Q2_K"),
        ("https://huggingface.co/User/Repo", "user/repo:Q4_K_M"),
        ("huggingface.co/user/repo:Q2_K:latest", None),
        ("user/repo:UD-Q2_K", "user/repo:Q2_K"),
        ("hf.co/USER/repo:ud-q2_k", "user/repo:Q2_K"),
        ("user/repo:Q2_K@v1", None),
        ("user/both:Q4_K_XL", "user/both:Q4_K_XL"),
        ("user/both:ud-q4_k_xl", "user/both:UD-Q4_K_XL"),
        ("user/both:i1-Q4_K_XL", None),
        ("hf.co/user/aliased:UD-Q8_0", "user/other:Q8_0"),
        ("HF.CO/user/aliased:q8_0", "user/other:Q8_0"),
        ("hf.co/user/../repo", None),
        ("hf.co/qwen", None),
    ],
)
def test_names_of_the_hub_compare_as_names(
    build: Build, models: Path, cache: Path, name: str, expected: str | None
) -> None:  # B-H6
    put(models / "qwen.gguf")
    put_cached(cache, "user/repo", "m-UD-Q2_K.gguf", "m-Q4_K_M.gguf")
    put_cached(cache, "user/other", "m-Q8_0.gguf")
    put_cached(cache, "user/both", "m-UD-Q4_K_XL.gguf", "m-Q4_K_XL.gguf")
    preset = "[user/other:Q8_0]\nalias = user/aliased:ud-Q8_0"
    found = build(models_dir=models, preset=preset)
    assert len(found) == 6
    spec = found.find(name)
    assert (spec and spec.name) == expected
    if expected:
        assert build(models_dir=models, preset=preset, default=name).resolve(None).name == expected


@pytest.mark.parametrize("name", ["qwen ", "user/rep", "user/repo:Q9", "../qwen", "qwen.gguf", "\0", "a\nb", "ü" * 99])
def test_unknown_name_is_404(three: Catalog, name: str) -> None:  # B-C1
    with pytest.raises(UnknownModel) as caught:
        three.resolve(name)
    assert caught.value.status == 404
    assert caught.value.message.isprintable()


def test_unknown_name_is_answered_with_the_nearest(three: Catalog) -> None:
    with pytest.raises(UnknownModel, match="did you mean qwen"):
        three.resolve("qwen3")


def test_a_name_of_10000_characters_is_not_repeated(three: Catalog) -> None:
    with pytest.raises(UnknownModel) as caught:
        three.resolve("a/" * 5000)
    assert len(caught.value.message) < 300


def test_long_names_are_not_compared() -> None:  # it would take seconds
    known = [ModelSpec(letter * length, "preset", ()) for letter, length in (("a", 100), ("b", 10_000))]
    catalog = Catalog(known)
    with pytest.raises(UnknownModel, match="did you mean aaa"):
        catalog.resolve("a" * 99)
    with pytest.raises(UnknownModel, match="lists what there is"):
        catalog.resolve("b" * 9_999)


def test_no_name_means_the_default(build: Build, three: Catalog, models: Path) -> None:  # B-C1
    for name in (None, ""):
        with pytest.raises(InvalidRequest, match='name a "model"'):
            three.resolve(name)
    assert build(models_dir=models, default="llama").resolve(None).name == "llama"
    with pytest.raises(CatalogError, match="--models-default: there is no model 'lama'; did you mean llama"):
        build(models_dir=models, default="lama")
