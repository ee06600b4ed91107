"""The preset key `engine`: a llama-server of the model's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.engine import engines
from router.engine.flags import default_table
from router.errors import PresetError
from router.models import presets
from router.models.build import build
from router.models.catalog import Catalog
from router.models.check import check_files
from router.models.sources import Sources
from router.pool.settings_store import differences
from tests.engine.test_engines import program

TABLE = default_table()


def catalog(folder: Path, text: str) -> Catalog:
    (folder / "x.gguf").touch()
    (folder / "presets.ini").write_text(text)
    file = presets.read(folder / "presets.ini", TABLE, environ={"HERE": str(folder)})
    return build(file, (), cache_root=folder / "hub", global_args=(), table=TABLE, default_name=None, offline=True)


def test_flags_are_those_of_the_models_own_engine(tmp_path: Path) -> None:
    path = program(tmp_path / "other/llama-server")
    text = f"[a]\nmodel = {tmp_path}/x.gguf\nengine = ${{HERE}}/other\nfrobnicate = 5\n[b]\nmodel = {tmp_path}/x.gguf\n"
    found = catalog(tmp_path, text)
    a, b = found.resolve("a"), found.resolve("b")
    assert (a.engine, a.problem, b.engine) == (str(path.parent), None, "")
    assert a.argv == ("--model", f"{tmp_path}/x.gguf", "--frobnicate", "5")
    assert differences(a, b)["engine"] == (str(path.parent), None)
    with pytest.raises(PresetError, match="unknown key 'frobnicate'"):
        catalog(tmp_path, f"[b]\nmodel = {tmp_path}/x.gguf\nfrobnicate = 5\n")
    with pytest.raises(PresetError, match="unknown key 'no-host'"):
        catalog(tmp_path, f"[a]\nmodel = {tmp_path}/x.gguf\nengine = {path}\nno-host = on\n")


def test_an_engine_for_all_and_another_for_one(tmp_path: Path) -> None:
    program(tmp_path / "one/llama-server")
    program(tmp_path / "two/llama-server", text="-m, --model FNAME   model\n--other N    new")
    text = f"[*]\nengine = {tmp_path}/one\n[a]\nmodel = {tmp_path}/x.gguf\n[b]\nmodel = {tmp_path}/x.gguf\n"
    found = catalog(tmp_path, text + f"engine = {tmp_path}/two\nother = 1\n")
    assert [spec.engine for spec in found.models] == [f"{tmp_path}/one", f"{tmp_path}/two"]


@pytest.mark.parametrize("engine", ["/no/such/llama-server", "{folder}/broken"])
def test_an_engine_that_cannot_be_used_costs_its_model_alone(tmp_path: Path, engine: str) -> None:
    program(tmp_path / "broken/llama-server", more="echo broken >&2; exit 3")
    engine = engine.format(folder=tmp_path)
    model = f"model = {tmp_path}/x.gguf"
    found = catalog(tmp_path, f"[a]\n{model}\nengine = {engine}\nfrobnicate = 5\nalias = c\n[b]\n{model}\n")
    assert "no such" in (found.resolve("a").problem or "").replace("/", " ") or "code 3" in (
        found.resolve("a").problem or ""
    )
    assert found.resolve("c").name == "a"
    assert found.resolve("b").problem is None
    _, (checked,) = check_files([tmp_path / "presets.ini"], TABLE, {}, lambda name: False)
    assert [(problem.line, problem.key) for problem in checked.problems] == [(3, "engine")]


def test_what_the_engine_lacks_of_all_models_flags_costs_its_model_alone(tmp_path: Path) -> None:
    program(tmp_path / "llama-server")
    model = f"model = {tmp_path}/x.gguf"
    found = catalog(tmp_path, f"[*]\nno-host = on\n[a]\n{model}\nengine = {tmp_path}\n[b]\n{model}\n")
    assert "does not know --" in (found.resolve("a").problem or "")
    assert found.resolve("b").problem is None


def test_flags_of_an_upgraded_engine_are_known_at_the_next_reading(tmp_path: Path) -> None:
    path = program(tmp_path / "llama-server")
    engine = engines.named(str(path))
    (tmp_path / "x.gguf").touch()
    file = tmp_path / "presets.ini"
    file.write_text(f"[a]\nmodel = {tmp_path}/x.gguf\nother = 3\n")
    sources = Sources((), engine.table(), {"HOME": str(tmp_path)}, preset=file, engine=engine)
    with pytest.raises(PresetError, match="unknown key 'other'"):
        sources.read()
    program(tmp_path / "new/llama-server", "2", "-m, --model FNAME   model\n--other N    new")
    os.replace(tmp_path / "new/llama-server", path)
    assert "--other" in sources.read().resolve("a").argv


def test_a_preset_from_the_hub_names_no_engine(tmp_path: Path) -> None:
    program(tmp_path / "llama-server")
    _, problems = presets.parse(f"[a]\nhf-repo = a/b\nengine = {tmp_path}\n", TABLE, foreign=True)
    assert ["engine is not taken from the hub" in problem.message for problem in problems] == [True]
    assert not (tmp_path / "asked").exists()
