from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("body", "ci", "code"),
    [
        ("import pytest\ndef test_it(): pytest.skip('no promtool')", "true", 1),
        ("import pytest\n@pytest.mark.skipif(True, reason='no promtool')\ndef test_it(): pass", "true", 1),
        ("import pytest\npytest.importorskip('no_such_module')\ndef test_it(): pass", "true", 1),
        ("import pytest\ndef test_it(): pytest.skip('no promtool')", "", 0),
        ("import pytest\ndef test_it(): pytest.skip('this machine has no IPv6')", "true", 0),
        ("import pytest\n@pytest.mark.xfail\ndef test_it(): assert 0", "true", 0),
        ("def test_it(): pass", "true", 0),
    ],
)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_skip_fails_the_run_where_ci_is_set(body: str, ci: str, code: int, workers: str, tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(body)
    (tmp_path / "test_y.py").write_text("def test_another(): pass")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "tests.skips", "-p", "no:cacheprovider", "-n", workers]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [*words, str(tmp_path)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == code, run.stdout + run.stderr
    assert ("skipped where CI is set" in run.stdout) == bool(code)
