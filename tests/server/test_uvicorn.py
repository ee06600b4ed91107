"""The oldest uvicorn that is allowed works as the newest does, although the router overrides private methods of it.

The oldest one is installed into `.uvicorn`; the whole suite runs with the newest.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".uvicorn"
# Those of the modules that build on uvicorn's connection, except for the ones with whole routers.
TESTS = tuple(
    f"tests/server/test_{name}.py"
    for name in (
        *("connection", "connection_end", "connection_fallback", "connection_keep_alive", "connection_ordinary"),
        *("framing", "admission"),
    )
)


def allowed() -> tuple[str, str]:
    """The oldest version that pyproject.toml allows, and the first that it does not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = filter(None, (re.fullmatch(r"uvicorn>=([\d.]+),<([\d.]+)", line) for line in project["dependencies"]))
    return found[1], found[2]


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def test_installed_uvicorn_is_the_newest_allowed() -> None:
    at_hand, (_, beyond) = version(importlib.metadata.version("uvicorn")), allowed()
    assert version(beyond) > at_hand >= (version(beyond)[0], version(beyond)[1] - 1)


@pytest.mark.timeout(300)
def test_oldest_allowed_uvicorn_passes() -> None:
    oldest = f"{allowed()[0]}.0"
    command = f"pip install --no-deps --target .uvicorn uvicorn=={oldest}"
    if not PLACE.is_dir():
        assert not os.environ.get("CI"), command
        pytest.skip(f"not installed: {command}")
    (found,) = importlib.metadata.distributions(name="uvicorn", path=[str(PLACE)])
    assert found.version == oldest, f"rm -r .uvicorn && {command}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(PLACE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_uvicorn_without_a_private_method_is_refused() -> None:
    code = """
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
del HttpToolsProtocol._start_asgi_task
import router.server.uvicorn_protocol
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "this uvicorn has no _start_asgi_task" in done.stderr
