"""Routers over the fake engine, whose children load and answer as slowly as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Starter
from tests.routers import Router, start


@pytest.fixture
def launch(fake: str, routers: Starter) -> Callable[..., Router]:
    return lambda *flags, **environ: routers("--engine", fake, *flags, **environ)


@pytest.fixture
def folder(tmp_path: Path, tiny_models: Path) -> Callable[..., Path]:
    """A folder with models of these names."""

    def make(*names: str) -> Path:
        place = tmp_path / "models"
        place.mkdir()
        for name in names:
            (place / f"{name}.gguf").hardlink_to(tiny_models / "tiny-a.gguf")
        return place

    return make


@pytest.fixture(scope="package")
def router(fake: str, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """Three models and keys: for tests that leave nothing behind."""
    place = tmp_path_factory.mktemp("app")
    (place / "keys").write_text("# of the team\nthird\n\n")
    (place / "presets.ini").write_text(
        f"[org/team/model:v1]\nmodel = {tiny_models}/tiny-a.gguf\n\n"
        f"[sick]\nmodel = {tiny_models}/tiny-a.gguf\nenv.FAKE_FAIL = error: out of luck\n"
    )
    router = start(
        place / "router",
        *("--engine", fake, "--models-dir", str(tiny_models), "--models-preset", str(place / "presets.ini")),
        *("--api-key", "first,söcond", "--api-key-file", str(place / "keys"), "--max-body-size", "1"),
    )
    router.client.headers["authorization"] = "Bearer first"
    yield router
    router.stop()
