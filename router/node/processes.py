"""Processes as the machine reports them: descendants, start time, exit code.

`process` watches a child with it, `local` measures a child with all its descendants.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
import time

import psutil


def tree_of(pid: int) -> tuple[int, ...]:
    """The process and all its descendants, by pid; the process alone if it has gone."""
    try:
        return (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True)))
    except psutil.Error:
        return (pid,)


def start_time_of(pid: int) -> float:
    """When the process began, in seconds since 1970; now, if it has gone."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return time.time()


def exit_code_of(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """A future of the exit code, negative for a signal. It needs no task, so cancelling all tasks does not harm it.

    Linux has descriptors of processes, which the loop can watch. Elsewhere a thread waits for each process.
    """
    loop = asyncio.get_running_loop()
    code: asyncio.Future[int] = loop.create_future()

    def on_end(descriptor: int) -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        code.set_result(process.wait())

    def wait_in_thread() -> None:
        result = process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no task waits for the code
            loop.call_soon_threadsafe(code.set_result, result)

    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux, an old one, or not allowed
        threading.Thread(target=wait_in_thread, name=f"reap-{process.pid}", daemon=True).start()
    else:
        loop.add_reader(descriptor, on_end, descriptor)
    return code
