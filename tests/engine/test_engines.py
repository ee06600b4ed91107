"""Several llama-servers side by side, each found and asked once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.engine import engines, flags
from router.engine.flags import default_table
from router.errors import EngineError

HELP = "-m, --model FNAME   model\n--frobnicate N    new\n--draft-max N    draft"


def program(path: Path, version: str = "1", text: str = HELP, *, more: str = "") -> Path:
    """A llama-server that notes each time that it is asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!/bin/sh\necho $1 >> {path.parent}/asked\n{more}\n"
        f'[ "$1" = --version ] && echo "version: {version} (x)" || cat <<"END"\n{text}\nEND\n'
    )
    path.chmod(0o755)
    assert engines.named(str(path)).command == (str(path),)
    return path


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().split()


def test_each_engine_is_asked_once_however_many_models_name_it(tmp_path: Path) -> None:
    path = program(tmp_path / "llama-server")
    for _ in range(5):
        assert engines.table_of(str(path)).find("--frobnicate")
        assert engines.named(str(path)).version() == "version: 1 (x)"
    assert sorted(asked(tmp_path)) == ["--help", "--version"]


def test_an_engine_that_was_replaced_is_asked_anew(tmp_path: Path) -> None:
    path = program(tmp_path / "llama-server")
    assert engines.table_of(str(path)).find("--frobnicate")
    program(tmp_path / "new", "2", "-m, --model FNAME   model\n--other N    new")
    os.replace(tmp_path / "new", path)
    table = engines.table_of(str(path))
    assert table.find("--other")
    assert not table.find("--frobnicate")
    assert engines.named(str(path)).version() == "version: 2 (x)"


def test_an_engine_that_fails_is_not_asked_for_each_of_its_models(tmp_path: Path) -> None:
    path = program(tmp_path / "llama-server", more="echo broken >&2; exit 3")
    for _ in range(3):
        with pytest.raises(EngineError, match="ended with code 3: broken"):
            engines.table_of(str(path))
    assert asked(tmp_path) == ["--version"]
    with pytest.raises(EngineError, match="engine = /no/such: there is no"):
        engines.table_of("/no/such")


def test_arguments_are_spelled_as_the_engine_spells_them(tmp_path: Path) -> None:
    table = engines.table_of(str(program(tmp_path / "llama-server")))
    args = flags.parse(["--model", "x.gguf", "--draft-max", "3", "--no-host"], default_table())
    bound, unknown = engines.bound_to(args, table)
    assert flags.render(bound) == ["--model", "x.gguf", "--draft-max", "3"]
    assert unknown == [args[2].flag.name]
