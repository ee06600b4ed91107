"""A short run of each part of the fuzzer. `python -m tests.security.fuzz --seconds 3600` runs longer."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from router.errors import GgufError
from router.memory.demand import predict
from router.models import template
from router.models.gguf import read
from router.models.header import MAX_ELEMENTS, MAX_TEXT_BYTES
from router.models.template import TemplateFeatures
from tests.security.fuzz import child, wire

SEED = 1 if os.environ.get("CI") else random.randrange(10**6)
PARTS: dict[str, Callable[[int, float, int], int]] = {"wire": wire.run, "child": child.run}


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("part", PARTS)
def test_fuzzed_requests_and_responses(part: str) -> None:  # B-T4, B-T8
    assert PARTS[part](SEED, 15.0, 1500)


def test_fuzzed_files() -> None:  # B-T8
    """In a process of its own with at most 3 GiB: a case that hangs or crashes ends only that process."""
    limited = "import resource, runpy; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)); "
    limited += "runpy.run_module('tests.security.fuzz', run_name='__main__')"
    argv = [sys.executable, "-c", limited, "files", "--seconds", "15", "--cases", "4000", "--seed", str(SEED)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(fields: list[bytes], tensors: list[bytes] | None = None) -> bytes:
    architecture = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    layers = text(b"llama.block_count") + struct.pack("<II", 4, 1)
    whole = [architecture, layers, *fields]
    counts = struct.pack("<IQQ", 3, len(tensors or ()), len(whole))
    return b"GGUF" + counts + b"".join([*whole, *(tensors or [])]) + bytes(64)


def tensor(name: bytes, *shape: int, kind: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)


@pytest.mark.parametrize("step", ["{% set a = [a, a] %}", "{% set a = (a, a, a) %}"])
def test_list_that_doubles_itself_is_not_expanded(step: str) -> None:  # B-T6
    assert template.analyse("{% set a = [] %}" + step * 60 + "{{ a }}{% if a == a %}x{% endif %}") == TemplateFeatures()


def test_size_of_a_header_is_limited(tmp_path: Path) -> None:  # B-T5
    path = tmp_path / "m.gguf"
    long = MAX_TEXT_BYTES // 4
    path.write_bytes(header([text(b"%d" % n) + struct.pack("<I", 8) + text(b"x" * long) for n in range(4)]))
    with pytest.raises(GgufError, match="texts"):
        read(path)
    arrays = [text(b"%d" % n) + struct.pack("<IIQ", 9, 0, 1024) + bytes(1024) for n in range(MAX_ELEMENTS // 1024 + 1)]
    path.write_bytes(header(arrays))
    with pytest.raises(GgufError, match="lists"):
        read(path)


def test_odd_tensors_are_read_or_refused(tmp_path: Path) -> None:  # B-T8
    path = tmp_path / "m.gguf"
    path.write_bytes(header([], [tensor(b"blk." + b"9" * 5000 + b".x", 1), tensor(b"blk.0.ffn_up.weight")]))
    assert predict([], read(path), gpus=2).demand.total
    path.write_bytes(header([], [tensor(b"x", 2**32, 2**32, kind=99)]))
    with pytest.raises(GgufError, match="elements"):
        read(path)
