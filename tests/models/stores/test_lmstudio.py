"""LM Studio's folder: names of models, quantizations and companions."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.errors import CatalogError
from router.models.stores.lmstudio import LmStudioStore
from tests.models.rig import put
from tests.waiting import until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "models" / "qwen" / "Qwen3-4B-GGUF" / "Qwen3-4B-Q4_K_M.gguf")
    return tmp_path / "models"


def test_names_are_publisher_and_model(root: Path) -> None:  # B-F3
    put(root / "qwen" / "Qwen3-4B-GGUF" / "Qwen3-4B-Q8_0.gguf")
    put(root / "google" / "gemma-3-GGUF" / "gemma-3-Q4_0.gguf")
    put(root / "google" / "gemma-3-GGUF" / "mmproj-gemma-3-F16.gguf")
    models = LmStudioStore(root).read().models
    assert {name: set(model.aliases) for name, model in models.items()} == {
        "qwen/Qwen3-4B-GGUF": {"qwen/Qwen3-4B-GGUF@q4_k_m", "qwen3-4b"},
        "qwen/Qwen3-4B-GGUF@q8_0": {"qwen3-4b@q8_0"},
        "google/gemma-3-GGUF": {"gemma-3"},
    }
    assert {model.source for model in models.values()} == {"lmstudio"}
    assert models["google/gemma-3-GGUF"].mmproj == root / "google" / "gemma-3-GGUF" / "mmproj-gemma-3-F16.gguf"


def test_a_short_name_that_two_could_have_is_none(root: Path) -> None:
    put(root / "other" / "Qwen3-4B-GGUF" / "Qwen3-4B-Q4_K_M.gguf")
    models = LmStudioStore(root).read().models
    assert {name: model.aliases for name, model in models.items()} == {
        "other/Qwen3-4B-GGUF": (),
        "qwen/Qwen3-4B-GGUF": (),
    }


def test_new_files_are_seen(root: Path) -> None:  # B-F3
    store = LmStudioStore(root)
    store.read()
    put(root / "new" / "m" / "m.gguf")
    until(lambda: not store.is_current())
    assert "new/m" in store.read().models


def test_a_folder_that_has_gone_is_an_error(root: Path) -> None:
    store = LmStudioStore(root)
    root.rename(root.with_name("away"))
    with pytest.raises(CatalogError, match=r"^--lmstudio-models .*No such file"):
        store.read()


def test_a_folder_with_the_name_of_a_quantization_costs_no_model(root: Path) -> None:  # B-F3
    for file in ("pub/a/a-Q4_K_M.gguf", "pub/a/a-Q8_0.gguf", "pub/a@q8_0/x.gguf"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"GGUF")
    models = LmStudioStore(root).read().models
    found = {name: model.path.name for name, model in models.items() if name.startswith("pub/a")}
    assert found == {"pub/a": "a-Q4_K_M.gguf", "pub/a:Q8_0": "a-Q8_0.gguf", "pub/a@q8_0": "x.gguf"}
