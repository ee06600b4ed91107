"""PURE: what the router needs of a system, and what is true of each system that people have.

- **Linux** has all of it: unix sockets for children, control groups, NVIDIA and AMD GPUs, descriptors of processes,
  reading ahead, socket activation.
- **macOS** lacks control groups, reading ahead and descriptors of processes (a thread waits for each child). A unix
  socket's path has 104 bytes. There is no parent-death signal, which the router does not use: the `watchdog` does its
  work. Metal shares the machine's RAM, so RAM is the device, as far as Metal lets it be used (`unified_memory`).
- **Windows** has no process groups that a signal ends, and its event loops cannot watch the pipes of children. So no
  model can be run. All modules can be imported, and commands that only look (list, check, pull, rm) work.

Where a system lacks something that can be done without, the module that uses it does without. `serve` asks `obstacle`
before anything starts.
"""

from __future__ import annotations

import os
import select
import sys
from typing import NamedTuple

_NAMES = {"win32": "Windows", "cygwin": "Cygwin", "emscripten": "a browser", "wasi": "WASI"}


class Facts(NamedTuple):
    """What a system has.

    `name` is `sys.platform`.
    `process_groups`: a child and what it has started can be ended together.
    `watched_pipes`: the event loop tells when a pipe can be read.
    """

    name: str
    process_groups: bool
    watched_pipes: bool


def facts() -> Facts:
    """Of this system."""
    watched_pipes = any(hasattr(select, name) for name in ("poll", "epoll", "kqueue"))
    return Facts(sys.platform, hasattr(os, "killpg"), watched_pipes and sys.platform != "win32")


def obstacle(facts: Facts) -> str | None:
    """Why models cannot be run on a system, as a sentence that says what to do; None if they can."""
    lacks = []
    if not facts.process_groups:
        lacks.append("process groups, by which children are ended")
    if not facts.watched_pipes:
        lacks.append("pipes that an event loop can watch, by which children are read")
    if not lacks:
        return None
    name = _NAMES.get(facts.name, facts.name)
    where = "WSL 2, or in a Linux container" if facts.name in ("win32", "cygwin") else "Linux or macOS"
    return (
        f"llama-router cannot run models on {name}, which has no {' and no '.join(lacks)}. "
        f"Run it in {where}; the commands list, check, pull and rm work here too."
    )
