"""A router with real models and templates, whose engine answers what a test says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.routers import FAKE, Router, start
from tests.scripted import Script, presets


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Script:
    """What the engine of `scripted` answers."""
    return Script(tmp_path_factory.mktemp("script"))


@pytest.fixture(scope="session")
def scripted(script: Script, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """The models of `presets`."""
    folder = tmp_path_factory.mktemp("scripted")
    (folder / "tiny.gguf").symlink_to(tiny_models / "tiny-a.gguf")
    (folder / "models.ini").write_text(presets(folder / "tiny.gguf"))
    flags = ("--engine", FAKE, "--models-preset", str(folder / "models.ini"), "--claude-map", "claude-*=opt-in")
    made = start(folder / "router", *flags, **script.environ)
    yield made
    made.stop()
