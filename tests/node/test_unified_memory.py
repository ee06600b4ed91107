"""What Metal may use of an Apple computer's RAM."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.node.unified_memory import GIB, limit, working_set
from tests.shell import write

MIB = 2**20


@pytest.mark.parametrize(
    ("total_gib", "set_mib", "mib"),
    [(8, 0, 5461), (16, 0, 10922), (32, 0, 21845), (36, 0, 27648), (64, 0, 49152), (128, 0, 98304)],
)
def test_the_systems_own_choice(total_gib: int, set_mib: int, mib: int) -> None:
    """As Metal reports it on machines of these sizes."""
    assert working_set(total_gib * GIB, set_mib) // MIB == mib


def test_what_the_user_has_set() -> None:
    assert working_set(64 * GIB, 60 << 10) == 60 * GIB
    assert working_set(64 * GIB, 100 << 10) == 64 * GIB


def test_other_machines_share_no_memory_so() -> None:
    assert limit(GIB, "linux", "arm64") is None
    assert limit(GIB, "darwin", "x86_64") is None
    assert limit(GIB, "win32", "arm64") is None


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo 12288", 12 * GIB), ("echo 0", 12 * GIB), ("echo unknown >&2; exit 1", 12 * GIB), ("echo ?", 12 * GIB)],
)
def test_the_setting_is_read(script: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "sysctl", f"#!/bin/sh\n{script}\n", executable=True)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert limit(18 * GIB, "darwin", "arm64") == expected
    if script == "echo 12288":
        assert limit(64 * GIB, "darwin", "arm64") == expected
