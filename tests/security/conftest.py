from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.routers import Router, start


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory, fake: str, tiny_models: Path) -> Iterator[Router]:
    """A router with two models: `saves` has a folder for slots, `plain` has none."""
    folder = tmp_path_factory.mktemp("args")
    file = folder / "presets.ini"
    file.write_text(
        f"[saves]\nmodel = {tiny_models}/tiny-a.gguf\nslot-save-path = {folder}\n"
        f"[plain]\nmodel = {tiny_models}/tiny-b.gguf\n"
    )
    made = start(folder / "router", "--engine", fake, "--models-preset", str(file))
    yield made
    assert made.stop() == 0
    assert "defect" not in made.log
