from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from router import demo
from router.engine import flags
from tests import nvml
from tests.front import front  # noqa: F401 - a fixture
from tests.routers import ENGINES, FAKE, Router, start
from tests.shell import shell  # noqa: F401 - a fixture

pytest_plugins = ["tests.behaviours", "tests.quick", "tests.skips"]

# A busy machine is no defect, and what CI tries is the same each time; elsewhere it is new each time.
SLOW = (hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture)
hypothesis.settings.register_profile("default", deadline=None, suppress_health_check=SLOW)
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("default"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

# Whoever starts the suite in the background may have it ignore SIGINT and SIGHUP, which processes of the tests would
# inherit. A handler is not inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

# Routers start by the hundred, and workers too: what Python compiles is kept, whatever this environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# As in an environment that is activated: what is started as `python3` is this Python.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

# Without FAKE_NVML the simulated driver says that it is not loaded: the suite is the same on a machine with GPUs.
nvml.load()


# With more, the suite takes three quarters of the time; but what a product does after a second, it then does to tests
# that had no processor for a second.
WORKERS_PER_CORE = 1


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """For `-n auto`. The tests of one file run in this process, which is quicker and can be debugged. None: as
    PYTEST_XDIST_AUTO_NUM_WORKERS says."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    paths = {word.partition("::")[0] for word in config.args}
    if len(paths) == 1 and Path(*paths).is_file():
        return 0
    return WORKERS_PER_CORE * (os.cpu_count() or 1)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # a worker's folder is "3", not "popen-gw3": names of unix sockets are short
        folder = Path(config.option.basetemp)
        config.option.basetemp = folder.with_name(folder.name.removeprefix("popen-gw"))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tiny GGUFs: tiny-a, tiny-b, tiny-c."""
    folder = tmp_path_factory.mktemp("models")
    demo.make_models(folder)
    return folder


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    """Each real engine in turn, as `--engine` takes it."""
    return ENGINES[request.param]()


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The fake engine as a program whose `--help` tells llama-server's flags."""
    folder = tmp_path_factory.mktemp("engine")
    rows = (", ".join((*flag.spellings, *flag.negatives)) + " N" * flag.arity for flag in flags.default_table().flags)
    (folder / "help").write_text("\n".join(rows))
    program = folder / "llama-server"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --help ] && exec cat {folder}/help\nexec {sys.executable} -IS {FAKE} "$@"\n'
    )
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def unmeasured() -> Iterator[None]:
    """Coverage counts nothing meanwhile: in a long walk over code that other tests cover it takes most of the time."""
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)


class Starter:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Router] = []

    def __call__(self, *flags: str, **environ: str) -> Router:
        router = start(self._folder / f"router{len(self._started)}", *flags, **environ)
        self._started.append(router)
        return router

    def close(self) -> None:
        for router in self._started:
            router.stop()


@pytest.fixture
def routers(tmp_path: Path) -> Iterator[Starter]:
    """Starts routers, and ends them."""
    starter = Starter(tmp_path)
    yield starter
    starter.close()
