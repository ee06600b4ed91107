"""A model with a long context, and estimators for any machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from router import demo
from router.engine import flags
from router.engine.discovery import Engine
from router.memory.estimator import Estimator
from router.memory.footprints import Footprints
from router.models.spec import ModelSpec
from router.scheduling.resources import Device
from tests.memory.rig import MIB, TABLE, TRAINED, Silent


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.write_tiny(tmp_path_factory.mktemp("model") / "long.gguf", context=TRAINED)


@pytest.fixture
def spec(model: Path) -> Callable[..., ModelSpec]:
    def make(*argv: str, **more: Any) -> ModelSpec:
        args = flags.parse(["--model", str(model), "--parallel", "1", *argv], TABLE)
        return ModelSpec("long", "models_dir", args, model_path=model, **more)

    return make


@pytest.fixture
def estimator(tmp_path: Path) -> Callable[..., Estimator]:
    def make(devices: Sequence[Device], which: Engine | None = None, **environ: str) -> Estimator:
        margins = {device.key: MIB for device in devices}
        kept = Footprints(tmp_path / "footprints.json")
        return Estimator(which or Silent("silent", ("none",)), TABLE, devices, margins, kept, environ)

    return make
