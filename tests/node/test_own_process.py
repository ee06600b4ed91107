from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

from router.node.own_process import OwnProcess


def test_what_this_process_uses(tmp_path: Path) -> None:
    own = OwnProcess()
    before = own.usage()
    assert 2**20 < before.resident < before.virtual
    assert time.time() - 24 * 3600 < before.started < time.time()
    assert before.cpu > 0
    assert before.open_files is not None
    assert before.max_files is not None
    assert before.open_files < before.max_files
    with (tmp_path / "one").open("w"), (tmp_path / "two").open("w"):
        now = own.usage().open_files
    assert now == before.open_files + 2
    end = time.thread_time() + 0.05
    while time.thread_time() < end:
        pass
    assert own.usage().cpu >= before.cpu + 0.03
    assert repr(own) == f"<OwnProcess {os.getpid()}>"


def test_open_files_are_as_many_as_are_listed() -> None:
    """The size of the folder says it since Linux 6.2; the list counts the folder itself too."""
    found = OwnProcess().usage().open_files
    assert found is not None
    assert abs(found - psutil.Process().num_fds()) <= 1
