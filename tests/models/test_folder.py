from __future__ import annotations

from pathlib import Path

import pytest

from router.errors import CatalogError
from router.models.describe import describe
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
