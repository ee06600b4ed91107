"""Several names of one model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from router.models.folder import FoundModel
from router.models.spec import Package
from router.models.stores.twins import folded

PACKAGE = Package("Ollama", "d", 0.0, 1, system="Be brief.", parameters={"top_k": 1})
MODEL = FoundModel("ollama", Path("/blobs/a"), package=PACKAGE)


def test_names_of_the_same_files_and_settings_are_one_model() -> None:  # B-F3
    other = replace(MODEL, package=replace(PACKAGE, system="Be long."))
    found = {
        "m:3b": MODEL,
        "m:latest": replace(MODEL, package=replace(PACKAGE, digest="e", modified_at=5.0)),
        "copy:v1": MODEL,
        "other:latest": other,
        "eyes:latest": replace(MODEL, mmproj=Path("/blobs/b")),
        "broken:1": replace(MODEL, problem="gone"),
        "broken:2": replace(MODEL, problem="gone"),
        "x": FoundModel("models_dir", Path("/blobs/a")),
    }
    result = folded(found, ())
    assert {name: model.aliases for name, model in result.items() if model.aliases} == {"m:latest": ("copy:v1", "m:3b")}
    assert result.keys() == found.keys() - {"m:3b", "copy:v1"}


def test_what_the_operator_named_is_not_overruled() -> None:  # B-F3
    lm_studio = replace(MODEL, source="lmstudio", package=None)
    found = {"m:latest": MODEL, "p/m": lm_studio, "x": FoundModel("models_dir", Path("/x"))}
    assert folded(found, {"m:latest", "p/m", "x"}).keys() == {"x"}
