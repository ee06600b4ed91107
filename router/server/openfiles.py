"""How many files this process may have open, and how many of these its clients may take.

A router without a free descriptor cannot start a child, and accepts nobody. So clients get a part of them, and the rest
is kept back.
"""

from __future__ import annotations

import contextlib
import logging
import sys

log = logging.getLogger("router.openfiles")

KEPT_BACK = 64  # for listeners, logs, files that are read, downloads
OF_A_MODEL = 6  # its pipes, its end, and what is read of it
MOST_CONNECTIONS = 4096  # if nobody says otherwise
WANTED = 65_536


def limit() -> int:
    """How many there may be; as many as this process may allow itself, as far as they are of use."""
    if sys.platform == "win32":  # where sockets are no files
        return WANTED
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def connections(wanted: int, files: int, models: int) -> int:
    """How many clients may be connected: `wanted`, 0 for a good number, if so many `files` and models allow for it. A
    client takes two files, since its request takes a connection to a child."""
    most = max(8, (files - KEPT_BACK - OF_A_MODEL * models) // 2)
    if wanted > most:
        log.warning("--max-connections %d is more than %d open files allow for: %d are taken", wanted, files, most)
    return min(wanted or MOST_CONNECTIONS, most)
