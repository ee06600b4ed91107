from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from router.demo import write_tiny
from router.models.describe import describe
from router.models.gguf import read_model
from router.models.projector import LAST_TENSORS, LAST_TENSORS_TURNED, misfit, width_for, width_of, without_misfit
from tests.memory.rig import header
from tests.models.rig import Build, write_header
from tests.projector_shapes import PROJECTORS, small_projector

TEXT = 64  # the width of the tiny model


def test_the_width_of_every_type_is_that_of_its_text_model(tmp_path: Path) -> None:  # B-L18
    """As the shapes of the table have it; a type that stacks rows gives as many times more."""
    unknown = dict.fromkeys(("granite-vision-4.1", "mobilevlm", "mobilevlm-v2"))
    others = {"qwen3-vl-8b": 4 * 4096, "muse-glimmer": 6656, **unknown}
    for shape in PROJECTORS:
        made = read_model(shape.write(tmp_path))
        assert width_of(made) == others.get(shape.name, shape.sizes["O"]), shape.name


def test_what_is_not_known_is_not_judged(tmp_path: Path) -> None:  # B-L18
    write_header(tmp_path / "a.gguf", "clip", {"clip.has_vision_encoder": True})
    assert misfit(header(), tmp_path / "a.gguf") is None
    assert width_for(header("granite")) is None
    assert width_for(header(embedding_length=0)) is None
    assert width_for(header(n_deepstack_layers=2**63)) is None
    assert width_for(header("qwen3vl", n_deepstack_layers=3)) == 4096
    assert not LAST_TENSORS.keys() & LAST_TENSORS_TURNED.keys()


@pytest.fixture
def folder(models: Path) -> Path:
    folder = models / "v"
    folder.mkdir()
    write_tiny(folder / "v.gguf")
    return folder


def damaged(folder: Path) -> None:
    (folder / "mmproj.gguf").write_bytes(b"GGUF" + bytes(3))


def of_another_model(folder: Path) -> None:
    small_projector(folder, 2 * TEXT)


def a_model(folder: Path) -> None:
    write_tiny(folder / "mmproj.gguf")


@pytest.mark.parametrize(
    ("spoil", "says"), [(damaged, "damaged"), (of_another_model, "rows of 128"), (a_model, "is no projector")]
)
def test_a_found_projector_that_does_not_fit_is_left_out(
    build: Build, models: Path, folder: Path, spoil: Callable[[Path], None], says: str
) -> None:  # B-L18
    spoil(folder)
    (spec,) = build(models_dir=models).models
    assert spec.found_mmproj
    left, why = without_misfit(spec)
    assert says in why
    assert (left.mmproj_path, "--mmproj" in left.argv, "--mmproj" in spec.argv) == (None, False, True)
    info = describe(spec).info
    assert (info.problem, info.input_modalities) == (None, ("text",))
    assert info.warning == why


def test_a_projector_that_was_named_is_not_left_out(build: Build, models: Path, folder: Path) -> None:  # B-L18
    of_another_model(folder)
    for key in (f"mmproj = {folder}/mmproj.gguf", "mmproj-auto = false"):
        spec = build(preset=f"[v]\n{key}", models_dir=models).resolve("v")
        assert without_misfit(spec) == (spec, "")
        assert not spec.found_mmproj


def test_one_that_fits_stays(build: Build, models: Path, folder: Path) -> None:  # B-L18
    small_projector(folder, TEXT)
    (spec,) = build(models_dir=models).models
    assert without_misfit(spec) == (spec, "")
    info = describe(spec).info
    assert (info.warning, info.input_modalities) == (None, ("text", "image"))
    again = describe(replace(spec)).info
    assert again == info


def test_a_found_projector_that_has_gone_costs_itself_alone(build: Build, models: Path, folder: Path) -> None:  # B-L18
    small_projector(folder, TEXT)
    (spec,) = build(models_dir=models).models
    (folder / "mmproj.gguf").unlink()
    assert "cannot read" in (describe(spec).info.warning or "")
    named = spec.with_args([*spec.args], spec.template)
    assert named.found_mmproj


def test_other_arguments_decide_anew_whether_it_was_found(build: Build, models: Path, folder: Path) -> None:  # B-L18
    small_projector(folder, TEXT)
    (spec,) = build(models_dir=models).models
    other = [replace(arg, values=("/other",)) if arg.flag.name == "--mmproj" else arg for arg in spec.args]
    assert not spec.with_args(other).found_mmproj
    assert not spec.without_projector().found_mmproj
