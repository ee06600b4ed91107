"""Which files of a repository a name means."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from router.hub.repo import File, Listing, Resolved, all_models, choose, quants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def listed(*paths: str) -> Listing:
    files = (File(PurePosixPath(path), 100 + number, f"{number:064d}") for number, path in enumerate(paths))
    return Listing("user/m", "main", COMMIT, tuple(files))


def chosen(paths: list[str], quant: str | None, *, drafting: str | None = None) -> list[str]:
    resolved = choose(listed(*paths), quant, drafting=drafting)
    return [file.path.as_posix() for file in resolved.all_files] if resolved else []


@pytest.mark.parametrize(
    ("paths", "quant", "expected"),
    [
        (["m-BF16.gguf", "m-F16.gguf"], "f16", "m-F16.gguf"),
        (["m-BF16.gguf"], "F16", None),
        (["m-Q4_K_M.gguf", "m-Q4_K.gguf"], "q4_k", "m-Q4_K.gguf"),
        (["m-Q4_K_M.gguf"], "Q4_K", None),
        (["m-Q4_K_M.gguf"], "K_M", None),
        (["m-Q4_K_XL.gguf", "m-UD-Q4_K_XL.gguf"], "Q4_K_XL", "m-Q4_K_XL.gguf"),
        (["m-Q4_K_XL.gguf", "m-UD-Q4_K_XL.gguf"], "UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        (["m-DQ-Q4_K_XL.gguf", "m-Q4_K_XL.gguf"], "Q4_K_XL", "m-Q4_K_XL.gguf"),
        (["a-Q8_0-merge-Q4_K_M.gguf", "b-Q8_0.gguf"], "Q8_0", "b-Q8_0.gguf"),
        (["m.Q5_K_S.gguf"], "Q5_K_S", "m.Q5_K_S.gguf"),
        (["BF16/m.gguf", "Q8_0/m.gguf"], "q8_0", "Q8_0/m.gguf"),
        (["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"], None, "m-Q4_K_M.gguf"),
        (["m-Q2_K.gguf", "m-Q8_0.gguf"], None, "m-Q8_0.gguf"),
        (["m-Q6_K.gguf", "m-Q3_K.gguf"], None, "m-Q3_K.gguf"),
        (["mmproj-Q4_K_M.gguf", "mtp-m-Q4_K_M.gguf", "imatrix-Q4_K_M.gguf", "eagle3-m-Q4_K_M.gguf"], "Q4_K_M", None),
        (["dflash-m-Q8_0.gguf", "dspark-m-Q8_0.gguf", "m.safetensors", "m-Q8_0.bin"], None, None),
        (["m-Q8_0-00002-of-00002.gguf"], "Q8_0", None),
    ],
)
def test_a_quant_is_whole_words(paths: list[str], quant: str | None, expected: str | None) -> None:  # B-H1
    assert chosen(paths, quant)[:1] == ([expected] if expected else [])


def test_all_shards_with_the_projector_and_the_draft() -> None:  # B-H1
    shards = [f"Q8_0/m-Q8_0-{n:05d}-of-00003.gguf" for n in (1, 2, 3)]
    others = ["mmproj-BF16.gguf", "mmproj-F16.gguf", "mtp-m-Q4_0.gguf", "mtp-m-Q8_0.gguf", "Q4_0/m-Q4_0.gguf"]
    assert chosen([*shards[::-1], *others], "Q8_0") == [*shards, "mmproj-F16.gguf"]
    assert chosen([*shards, *others], "Q8_0", drafting="mtp") == [*shards, "mmproj-F16.gguf", "mtp-m-Q8_0.gguf"]
    assert chosen([*shards, *others], "Q8_0", drafting="eagle3") == [*shards, "mmproj-F16.gguf"]
    assert chosen([*shards[:2], *others], "Q8_0") == []


def test_companions_lie_beside_the_model_or_above() -> None:  # B-H1
    paths = ["a/m-Q8_0.gguf", "b/mmproj-F16.gguf", "mmproj-F32.gguf", "b/dflash-m.gguf"]
    assert chosen(paths, "Q8_0", drafting="dflash") == ["a/m-Q8_0.gguf", "mmproj-F32.gguf"]
    assert chosen([*paths, "a/mmproj-m-BF16.gguf"], "Q8_0") == ["a/m-Q8_0.gguf", "a/mmproj-m-BF16.gguf"]


def test_models_are_named_by_quant_and_revision() -> None:
    def name(listing: Listing, quant: str) -> str:
        resolved = choose(listing, quant)
        assert isinstance(resolved, Resolved)
        return resolved.name

    assert name(listed("m-ud-q4_k_xl.gguf"), "UD-Q4_K_XL") == "user/m:Q4_K_XL"
    assert name(Listing("user/m", "v1", COMMIT, listed("m-Q8_0.gguf").files), "q8_0") == "user/m:Q8_0@v1"


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["m-UD-Q4_K_XL.gguf"], ["Q4_K_XL"]),
        (["m-Q4_K_XL.gguf", "m-UD-Q4_K_XL.gguf"], ["Q4_K_XL", "UD-Q4_K_XL"]),
        (["m-IQ-Q4_0.gguf", "m-Q4_0.gguf"], ["IQ-Q4_0", "Q4_0"]),
        (["Q8_0/m-Q8_0-00001-of-00002.gguf", "x/m-i1-Q8_0-00001-of-00002.gguf"], ["Q8_0", "I1-Q8_0"]),
        (["m.gguf", "n.gguf"], [None, None]),
    ],
)
def test_a_prefix_is_left_out_where_it_tells_nothing(paths: list[str], expected: list[str | None]) -> None:  # B-H6
    found = quants([PurePosixPath(path) for path in paths])
    assert [found[PurePosixPath(path)] for path in paths] == expected


def test_all_models_model_by_size() -> None:
    models = all_models(
        listed("m-Q8_0.gguf", "m-Q4_0-00001-of-00002.gguf", "m-Q4_0-00002-of-00002.gguf", "m-Q2_K.gguf")
    )
    assert [(model.quant, model.bytes) for model in models] == [("Q8_0", 100), ("Q2_K", 103), ("Q4_0", 203)]
