"""The cause of a crash is read from the child's log."""

from __future__ import annotations

import re

import pytest

from router.node import crash
from router.node.child_log import MAX_LINE_BYTES, MAX_LOG_BYTES


# B-P3
@pytest.mark.parametrize(
    ("code", "line", "cause"),
    [
        (-9, "", "when RAM runs out"),
        (-4, "", "another processor"),
        (-64, "", "signal 64|SIGRTMAX"),
        (7, "", "ended with code 7 while it loaded: it gave no reason. It wrote nothing"),
        (127, "x: error while loading shared libraries: libcudart.so.12: no", "missing .libcudart"),
        (1, "ggml_backend_cuda: allocating 9.00 MiB: cudaMalloc failed: out of memory", "out of memory"),
        (1, "W failed to allocate 12.00 MB of pinned memory: x", "gave no reason"),
    ],
)
def test_the_cause_is_read_from_the_log(code: int, line: str, cause: str) -> None:
    exit = crash.explain("m", code, [line], is_stopped=False, is_ready=False)
    assert re.search(cause, exit.sentence), exit.sentence


def test_a_cause_is_found_in_bounded_time() -> None:  # B-T6
    line = "failed to allocate " * (MAX_LINE_BYTES // 19)
    log = [line] * (MAX_LOG_BYTES // len(line))
    assert "ended with code 1" in crash.explain("m", 1, log, is_stopped=False, is_ready=False).sentence
