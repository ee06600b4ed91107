from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.engine.flags import value_of
from router.errors import CatalogError
from router.models.catalog import Catalog
from router.models.describe import describe
from router.models.folders import ModelFolders
from tests.models.rig import Build, model_names, put


def test_files_and_folders_become_models_with_their_companions(build: Build, models: Path) -> None:
    single = put(models / "b.gguf", 7)
    put(models / "README.md")
    put(models / "mmproj-b.gguf")
    put(models / "mtp-b.gguf")
    put(models / "._b.gguf")
    shards = [put(models / "vision" / f"v-{n:05d}-of-00002.gguf", 5) for n in (1, 2)]
    f16 = put(models / "vision" / "mmproj-F16.gguf")
    put(models / "vision" / "mmproj-BF16.gguf")
    draft = put(models / "vision" / "mtp-v.gguf")
    put(models / "empty" / "notes.txt")
    put(models / "deep" / "er" / "x.gguf")
    found = build(models_dir=models)
    assert model_names(found) == ["b", "deep/er", "vision"]
    b, _, vision = found.models
    assert (b.source, b.model_path, b.mmproj_path, b.size_bytes, b.problem) == ("models_dir", single, None, 7, None)
    assert b.argv == ("--model", str(single))
    assert (vision.model_path, vision.mmproj_path, vision.size_bytes) == (shards[0], f16, 10)
    assert vision.argv == ("--model", str(shards[0]), "--mmproj", str(f16), "--spec-draft-model", str(draft))


def test_shards_side_by_side_are_one_model(build: Build, models: Path) -> None:
    for n in (1, 2, 3):
        put(models / f"big-{n:05d}-of-00003.gguf")
    assert model_names(build(models_dir=models)) == ["big"]


def test_missing_shard_is_named(build: Build, models: Path) -> None:  # B-D4
    put(models / "big-00001-of-00002.gguf")
    (spec,) = build(models_dir=models).models
    assert spec.problem is not None
    assert "big-00002-of-00002.gguf" in spec.problem
    assert (spec.model_path, spec.size_bytes, describe(spec).info.problem) == (None, 0, spec.problem)


def test_unreadable_folder_is_an_error(build: Build, models: Path) -> None:
    with pytest.raises(CatalogError, match="nowhere: No such file"):
        build(models_dir=models / "nowhere")
    with pytest.raises(CatalogError, match="Not a directory"):
        build(models_dir=put(models / "file"))


def test_of_a_file_and_a_folder_of_one_name_the_file_has_it(build: Build, models: Path) -> None:
    file, other = put(models / "a.gguf"), put(models / "a" / "x.gguf")
    found = build(models_dir=models)
    assert [(spec.name, spec.model_path) for spec in found.models] == [("a", file), ("a/x", other)]


def files_by_name(catalog: Catalog) -> dict[str, Path | None]:
    return {spec.name: spec.model_path for spec in catalog.models}


def test_quantizations_side_by_side_are_a_model_each(build: Build, models: Path) -> None:  # B-F2
    files = {quant: put(models / "qwen" / f"qwen-{quant}.gguf") for quant in ("BF16", "Q4_K_M", "UD-Q2_K_XL")}
    mmproj = put(models / "qwen" / "mmproj-F16.gguf")
    draft = put(models / "qwen" / "mtp-qwen.gguf")
    catalog = build(models_dir=models)
    assert files_by_name(catalog) == {
        "qwen": files["Q4_K_M"],
        "qwen:BF16": files["BF16"],
        "qwen:UD-Q2_K_XL": files["UD-Q2_K_XL"],
    }
    assert catalog.resolve("qwen:q4_k_m").name == "qwen"
    for spec in catalog.models:
        assert (spec.mmproj_path, value_of(spec.args, "--spec-draft-model")) == (mmproj, str(draft))


@pytest.mark.parametrize(
    ("names", "default"),
    [
        (("m-Q2_K", "m-Q8_0"), "m-Q8_0"),
        (("m-Q5_K_M", "m-IQ2_XXS"), "m-IQ2_XXS"),
        (("m.f16", "m.q4_k_m"), "m.q4_k_m"),
    ],
)
def test_a_folders_own_name_means_its_usual_quantization(
    build: Build, models: Path, names: tuple[str, ...], default: str
) -> None:  # B-F2
    for name in names:
        put(models / "m" / f"{name}.gguf")
    assert build(models_dir=models).resolve("m").model_path == models / "m" / f"{default}.gguf"


def test_different_models_in_one_folder_have_their_own_names(build: Build, models: Path) -> None:  # B-F2
    for name in ("gemma-Q4_K_M", "qwen-Q4_K_M", "mmproj-qwen", "mmproj-gemma"):
        put(models / "mixed" / f"{name}.gguf")
    found = build(models_dir=models)
    assert files_by_name(found) == {
        "mixed": models / "mixed" / "gemma-Q4_K_M.gguf",
        "mixed/qwen-Q4_K_M": models / "mixed" / "qwen-Q4_K_M.gguf",
    }
    assert found.resolve("mixed/gemma-Q4_K_M").name == "mixed"
    assert [spec.mmproj_path and spec.mmproj_path.name for spec in found.models] == [
        "mmproj-gemma.gguf",
        "mmproj-qwen.gguf",
    ]


def test_publishers_have_folders_of_models(build: Build, models: Path) -> None:  # B-F2
    qwen = put(models / "lmstudio-community" / "Qwen3-4B-GGUF" / "Qwen3-4B-Q4_K_M.gguf")
    big = [put(models / "unsloth" / "big" / "Q8_0" / f"big-Q8_0-{n:05d}-of-00002.gguf") for n in (1, 2)]
    small = put(models / "unsloth" / "big" / "UD-Q2_K_XL" / "big-UD-Q2_K_XL.gguf")
    mmproj = put(models / "unsloth" / "big" / "mmproj-BF16.gguf")
    nearer = put(models / "unsloth" / "big" / "Q8_0" / "mmproj-F32.gguf")
    other = put(models / "unsloth" / "flat.gguf")
    put(models / "a" / "b" / "c" / "d" / "e" / "f" / "too-deep.gguf")
    put(models / ".hidden" / "below" / "x.gguf")
    found = build(models_dir=models)
    assert files_by_name(found) == {
        "lmstudio-community/Qwen3-4B-GGUF": qwen,
        "unsloth": other,
        "unsloth/big": big[0],
        "unsloth/big:UD-Q2_K_XL": small,
    }
    assert [found.resolve(f"unsloth/big{quant}").mmproj_path for quant in ("", ":ud-q2_k_xl")] == [nearer, mmproj]
    assert found.resolve("unsloth/big").size_bytes == 20


def test_endings_may_be_in_any_case(build: Build, models: Path) -> None:  # B-F2
    put(models / "LOUD.GGUF")
    put(models / "v" / "V.Gguf")
    put(models / "v" / "MMPROJ-F16.GGUF")
    put(models / "split-00001-of-00002.GGUF")
    put(models / "split-00002-of-00002.GGUF")
    loud, split, v = build(models_dir=models).models
    assert (loud.name, split.name, v.name) == ("LOUD", "split", "v")
    assert v.mmproj_path == models / "v" / "MMPROJ-F16.GGUF"
    assert "rename them" in (split.problem or "")


def test_of_equal_names_the_first_wins_and_the_others_have_longer_ones(
    build: Build, models: Path, tmp_path: Path
) -> None:  # B-F2
    more = tmp_path / "more"
    for path in ("x.gguf", "x.GGUF", "x-00001-of-00001.gguf", "x/y.gguf", "x/x.gguf", "z.gguf"):
        put(models / path)
    for path in ("x.gguf", "z/z.gguf", "new.gguf"):
        put(more / path)
    found = ModelFolders([models, more]).read()
    assert {name: str(model.path.relative_to(tmp_path)) for name, model in found.models.items()} == {
        "x": "models/x.GGUF",
        "x.gguf": "models/x.gguf",
        "x-00001-of-00001.gguf": "models/x-00001-of-00001.gguf",
        "x/x": "models/x/x.gguf",
        "x/y": "models/x/y.gguf",
        "z": "models/z.gguf",
        "new": "more/new.gguf",
        "more/x": "more/x.gguf",
        "more/z": "more/z/z.gguf",
    }
    assert f"{models}/z.gguf is the model 'z', so {more}/z/z.gguf is the model 'more/z'" in found.warnings
    assert model_names(build(models_dir=(models, more))) == list(found.models)


def test_a_folder_that_is_given_twice_is_read_once(models: Path, tmp_path: Path) -> None:  # B-F1
    put(models / "below" / "x.gguf")
    (tmp_path / "link").symlink_to(models)
    found = ModelFolders([models, tmp_path / "link", models, models / "below"]).read()
    assert list(found.models) == ["below"]
    assert len(found.warnings) == 2


def test_shards_without_their_first_one_are_a_model_with_a_problem(build: Build, models: Path) -> None:  # B-F1
    put(models / "big-00002-of-00003.gguf")
    put(models / "sub" / "part-00003-of-00003.gguf")
    big, sub = build(models_dir=models).models
    assert (big.name, sub.name) == ("big", "sub")
    assert "big-00001-of-00003.gguf of 3 is missing" in (big.problem or "")
    assert "part-00001-of-00003.gguf of 3 is missing" in (sub.problem or "")


def test_a_section_is_merged_over_a_nested_model(build: Build, models: Path) -> None:  # B-F2
    put(models / "publisher" / "model" / "m-Q4_K_M.gguf")
    put(models / "publisher" / "model" / "m-Q8_0.gguf")
    preset = "[publisher/model]\nctx-size = 512\n[publisher/model:Q8_0]\nctx-size = 1024\nalias = big"
    found = build(models_dir=models, preset=preset)
    assert model_names(found) == ["publisher/model", "publisher/model:Q8_0"]
    assert [value_of(found.resolve(name).args, "--ctx-size") for name in ("publisher/model", "big")] == ["512", "1024"]
    assert found.resolve("publisher/model:q4_k_m").name == "publisher/model"


def test_names_hold_what_files_are_called(build: Build, models: Path) -> None:  # B-F1
    for name in (b"caf\xe9.gguf", b"a\nb.gguf", b"dir\xff/x.gguf", b"a.b:c.gguf", b"pct%0A.gguf", b"pct\n.gguf"):
        path = Path(os.fsdecode(os.fsencode(models) + b"/" + name))
        put(path)
    found = build(models_dir=models)
    assert model_names(found) == ["a%0Ab", "a.b:c", "caf%E9", "pct%0A", "pct%0A.gguf", "dir%FF"]
    assert found.resolve(os.fsdecode(b"caf\xe9")).name == "caf%E9"
    assert found.resolve("a\nb").name == "a%0Ab"
    assert len({spec.model_path for spec in found.models}) == 6


def test_a_quantization_that_is_there_twice_changes_no_default(build: Build, models: Path) -> None:  # B-F2
    for file in (
        "BF16/v-BF16-00001-of-00001.gguf",
        "UD-Q4_K_XL/v-UD-Q4_K_XL.gguf",
        "v-UD-Q4_K_XL.gguf",
        "v-Q4_K_M.gguf",
    ):
        put(models / "v" / file)
    found = build(models_dir=models).models
    assert next(spec for spec in found if spec.name == "v").model_path == models / "v" / "v-Q4_K_M.gguf"
    assert len([spec for spec in found if spec.name.startswith("v")]) == 4
