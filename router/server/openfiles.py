"""How many files this process may have open, and how many of them its clients may take.

Without a free file descriptor the router can start no child and accept no connection. So clients get a part of the
descriptors, and the rest is reserved. `serve` calls this at its start.
"""

from __future__ import annotations

import contextlib
import logging
import sys

log = logging.getLogger("router.openfiles")

RESERVED_FILES = 64  # for listeners, logs, files that are read, downloads
FILES_PER_MODEL = 6  # the pipes of its process, the descriptor that reports its end, and what is read of it
FILES_PER_CONNECTION = 2  # the client's, and the one to the child that its request takes
DEFAULT_CONNECTIONS = 4096
MIN_CONNECTIONS = 8
WANTED_FILES = 65_536


def raise_limit() -> int:
    """Raises the limit of open files as far as the system lets this process, and is of use. Returns the limit."""
    if sys.platform == "win32":  # sockets are no files there
        return WANTED_FILES
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED_FILES if soft == resource.RLIM_INFINITY else soft


def max_connections(wanted: int, files: int, models: int) -> int:
    """How many clients may be connected, with `files` open files and `models` running. `wanted` is the setting, 0 for
    the default."""
    most = max(MIN_CONNECTIONS, (files - RESERVED_FILES - FILES_PER_MODEL * models) // FILES_PER_CONNECTION)
    if wanted > most:
        log.warning("--max-connections %d is more than %d open files allow for: %d are taken", wanted, files, most)
    return min(wanted or DEFAULT_CONNECTIONS, most)
