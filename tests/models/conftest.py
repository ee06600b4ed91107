"""A folder of models, a cache, and the catalog built of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from router.demo import write_tiny
from router.engine.flags import parse
from router.hub import cache as hub
from router.models import build as builds
from router.models import presets
from router.models.catalog import Catalog
from router.models.folder import FoundModel
from router.models.folders import Places
from router.models.presets import NO_PRESETS
from tests.models.rig import TABLE, Build


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def build(tmp_path: Path, cache: Path) -> Build:
    """`build("--ctx-size 512", preset="[a]...", models_dir=...)`."""

    def make(
        flags: str = "",
        *,
        preset: str = "",
        models_dir: Places = None,
        default: str | None = None,
        offline: bool = False,
        wanted: Sequence[str] = (),
        stored: Mapping[str, FoundModel] | None = None,
    ) -> Catalog:
        path = tmp_path / "presets.ini"
        path.write_text(preset)
        return builds.build(
            presets.read(path, TABLE) if preset else NO_PRESETS,
            hub.Cache(cache).entries(),
            models_dir=models_dir,
            cache_root=cache,
            global_args=parse(flags.split(), TABLE),
            table=TABLE,
            default_name=default,
            offline=offline,
            wanted=wanted,
            stored=stored,
        )

    return make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("gguf") / "tiny.gguf", layers=3, context=512)
