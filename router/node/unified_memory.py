"""How much of an Apple computer's RAM its GPU may use.

Metal works in the machine's RAM, but not in all of it (`recommendedMaxWorkingSetSize`): a model beyond that is loaded
and then fails, or the machine stands still. `plan` takes this for the limit of RAM if the engine uses Metal and
`--models-memory-limit` says nothing.
"""

from __future__ import annotations

import platform
import subprocess
import sys

GIB = 2**30
# What Metal reports on machines of different sizes: two thirds of less than 36 GiB, three quarters of 36 and more.
LARGE_BYTES = 36 * GIB
TIMEOUT_S = 5


def limit(total: int, system: str = sys.platform, machine: str | None = None) -> int | None:
    """The bytes that Metal may use of `total`; None where memory is not shared so. Blocks for some milliseconds."""
    if system != "darwin" or (machine or platform.machine()) != "arm64":
        return None
    return working_set(total, _wired_limit_mib())


def working_set(total: int, wired_limit_mib: int) -> int:
    """PURE: `wired_limit_mib` is what the user has set (`iogpu.wired_limit_mb`); 0 means the system's own choice."""
    if wired_limit_mib > 0:
        return min(total, wired_limit_mib << 20)
    return total * 3 // 4 if total >= LARGE_BYTES else total * 2 // 3


def _wired_limit_mib() -> int:
    try:
        told = subprocess.run(
            ["sysctl", "-n", "iogpu.wired_limit_mb"], capture_output=True, timeout=TIMEOUT_S, check=True
        )
        return int(told.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):  # a system before macOS 14
        return 0
