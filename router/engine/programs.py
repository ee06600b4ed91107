"""Runs a program for its answer: the one door to `subprocess` of this package.

Called by `discovery` to ask an engine, and by `libraries` to ask the system's `ldd`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

TimedOut = subprocess.TimeoutExpired


def run(argv: Sequence[str], env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run it to its end with these variables besides the router's own. Raises OSError, and TimedOut after `timeout`
    seconds; then it has been killed."""
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **env},
        timeout=timeout,
        check=False,
        start_new_session=True,  # what a terminal sends to all of its processes is for the router alone
    )
