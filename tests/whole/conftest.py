"""A router with real models and templates, whose engine answers what a test says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from tests import nvml
from tests.conftest import Starter
from tests.nvml import Gpu
from tests.routers import FAKE, Router, start
from tests.scripted import Script, presets
from tests.whole.gpu_machine import GIB, Machine, Make


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


@pytest.fixture
def machine(tmp_path: Path, routers: Starter, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a machine with GPUs of so many GiB, or whole `Gpu`s; at the end nothing may have gone wrong on it."""
    made: list[Machine] = []

    def make(*gpus: float | Gpu) -> Machine:
        made.append(Machine(tmp_path, routers, tuple(g if isinstance(g, Gpu) else Gpu(int(g * GIB)) for g in gpus)))
        monkeypatch.setenv("FAKE_NVML", str(made[0].nvml.folder))
        nvml.load()
        nvml.close_all()
        pynvml.nvmlInit()
        return made[0]

    yield make
    assert made[0].problems == []
    assert len(made[0].events("oom")) == made[0].shortages
