"""What people install: the sdist and the wheel are whole, and work in an empty environment, be the libraries the newest
or the oldest that pyproject.toml allows. B-I1"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

import router

ROOT = Path(__file__).parents[1]
README = ROOT.joinpath("README.md").read_text()
EXTRAS = "embedded,otel,socks"
# Each is about one library that changes often: what it does is tried with the oldest version too.
DOORS = (
    *("hub/test_transfer.py", "telemetry/test_tracing.py", "llama_swap/test_document.py", "client/test_screen.py"),
    "proxy/test_disconnect.py",  # before 0.23, uvloop closed the sockets of others when a connection was cancelled
)
EVERY_MODULE = """
import importlib, pkgutil, router
names = [module.name for module in pkgutil.walk_packages(router.__path__, "router.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names), router.__file__)
"""
EVERY_FILE = """
from router.api.dashboard.page import NAMES, UiFile
from router.engine.flags import default_table
print(*(UiFile.read(name).name for name in NAMES), len(default_table().flags) > 100)
"""


class Packed(NamedTuple):
    files: frozenset[str]  # of the repository
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """`python -m build` in a copy of the repository: the wheel is made of the sdist."""
    place = tmp_path_factory.mktemp("packed")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.split("\0") if name and (ROOT / name).exists()]
    for name in names:
        (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place / "source" / name)
    succeed([sys.executable, "-m", "build", "--outdir", place, place / "source"], place, dict(os.environ))
    (sdist,), (wheel,) = place.glob("*.tar.gz"), place.glob("*.whl")
    return Packed(frozenset(names), sdist, wheel)


def succeed(words: Sequence[str | Path], folder: Path, environ: dict[str, str]) -> str:
    """What the command writes to stdout."""
    done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(600)
def test_the_sdist_has_every_file_of_the_repository(packed: Packed) -> None:  # B-I1
    with tarfile.open(packed.sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {name for name in held - packed.files if name.startswith("llama_router.egg-info/")}
    assert held - made - {"PKG-INFO", "setup.cfg"} == packed.files


@pytest.mark.timeout(600)
def test_the_wheel_has_every_file_of_the_router_and_no_other(packed: Packed) -> None:  # B-I1
    with zipfile.ZipFile(packed.wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == {name for name in packed.files if name.startswith("router/")}


@pytest.mark.timeout(600)
def test_the_version_comes_from_one_place(packed: Packed) -> None:  # B-I1
    with zipfile.ZipFile(packed.wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        about = email.message_from_bytes(archive.read(name))
    assert (about["Name"], about["Version"]) == ("llama-router", router.__version__)
    assert router.__version__ not in ROOT.joinpath("pyproject.toml").read_text()


def test_the_changelog_begins_with_this_version() -> None:  # B-I1
    log = README.split("\n# Changelog\n", 1)[1].split("\n# ", 1)[0]
    versions = re.findall(r"^## (\S+)", log, re.M)
    assert versions[0] == router.__version__
    assert versions == sorted(versions, key=lambda text: tuple(map(int, text.split("."))), reverse=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("resolution", ["highest", "lowest-direct"])
def test_it_installs_in_an_empty_environment_and_answers(packed: Packed, tmp_path: Path, resolution: str) -> None:
    """B-I1. `lowest-direct` takes the oldest version that pyproject.toml allows of each library that it names."""
    place = tmp_path / "env"
    python = place / "bin/python"
    kept = ("PATH", "LANG", "SSL_CERT_FILE", "HTTPS_PROXY", "https_proxy")
    environ = {name: value for name, value in os.environ.items() if name in kept or name.startswith(("UV_", "PIP_"))}
    environ |= {"HOME": str(tmp_path), "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(tmp_path / "uv"))}
    uv = [sys.executable, "-m", "uv", "--no-config"]
    succeed([*uv, "venv", "--python", sys.executable, place], tmp_path, environ)
    wanted = f"llama-router[{EXTRAS}] @ {packed.wheel.as_uri()}"
    succeed([*uv, "pip", "install", "--python", python, "--resolution", resolution, wanted], tmp_path, environ)
    succeed([*uv, "pip", "check", "--python", python], tmp_path, environ)

    count, _, found = succeed([python, "-IWerror", "-c", EVERY_MODULE], tmp_path, environ).strip().partition(" ")
    assert int(count) > 400
    assert Path(found).is_relative_to(place)
    *files, has_flags = succeed([python, "-I", "-c", EVERY_FILE], tmp_path, environ).split()
    assert "index.html" in files
    assert has_flags == "True"

    program = place / "bin/llama-router"
    assert succeed([program, "--version"], tmp_path, environ).split() == ["llama-router", router.__version__]
    answers = succeed([program, "demo", "--once", "--threads", "1"], tmp_path, environ)
    assert [line.split(":")[0] for line in answers.splitlines() if re.match(r"tiny-\w: \w+", line)] == [
        *("tiny-a", "tiny-b", "tiny-c")
    ]
    if resolution == "lowest-direct":
        (libraries,) = place.glob("lib/*/site-packages")
        tests = [ROOT / "tests" / name for name in DOORS]
        words = [sys.executable, "-m", "pytest", "-q", "-n0", "-Wignore::DeprecationWarning", "-pno:cacheprovider"]
        succeed([*words, *tests], ROOT, {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, libraries)))})
