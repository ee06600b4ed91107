"""Loading and serving a model: the unix socket, and the conversation with the parent process.

The one thing to understand: xllamacpp locks the interpreter while it loads a model, and its own ending waits for
streams. So while it loads, the kernel must end this process on the parent's word (`end_on_any_input`), and afterwards
this module ends it at once (`exit_now`). `__main__` calls `serve`.
"""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path
from typing import NoReturn

from router.engine.embedded.library import Params, StartError, xllamacpp

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

EXIT_COMMAND = b"cmd_router_to_child:exit"
LOG_FLUSH_S = 0.1  # llama.cpp's log is written by a thread of its own, which the end of the process would cut off


def serve(params: Params, *, is_child: bool) -> NoReturn:
    """Load the model, then serve until the parent or a signal ends it.

    While it loads, SIGTERM and SIGINT end the process as they do by default. Raises StartError.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for path in socket_paths(params):
        remove_stale_socket(path)
    commands = take_over_stdin() if is_child else -1
    if is_child and end_on_any_input(commands):
        exit_now(params, wait_for_exit_command(commands))
    try:
        _server = xllamacpp.Server(params)  # writes state lines to stdout itself where LLAMA_SERVER_ROUTER_PORT is set
    except (RuntimeError, ValueError) as error:
        time.sleep(LOG_FLUSH_S)
        raise StartError(f"{params.model.path} cannot be served; the lines above say why", 1) from error
    if is_child:
        stop_ending_on_input(commands)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: exit_now(params, 0))
    if is_child:
        exit_now(params, wait_for_exit_command(commands))
    while True:
        time.sleep(3600)


def socket_paths(params: Params) -> list[Path]:
    return [Path(host) for host in params.hostnames if host.endswith(".sock")]


def remove_stale_socket(path: Path) -> None:
    """Removes a socket on which no process answers. One that answers stays, and binding it will fail."""
    if path.is_socket():
        import socket  # some ms of every start, which only a leftover needs

        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)):
                path.unlink()


def exit_now(params: Params, exit_code: int) -> NoReturn:
    """Exit at once. The C++ side's own ending waits for streams up to 30 s, and locks the interpreter meanwhile."""
    for path in socket_paths(params):
        path.unlink(missing_ok=True)
    os._exit(exit_code)


def take_over_stdin() -> int:
    """A descriptor of the parent's pipe, which only this module reads.

    The C++ side would read stdin too. It gets a pipe on which nothing ever comes.
    """
    commands = os.dup(0)
    silent, _ = os.pipe()
    os.dup2(silent, 0)
    return commands


def end_on_any_input(commands: int) -> bool:
    """Let the kernel end this process (SIGTERM) as soon as anything happens on the parent's pipe; Linux only.

    xllamacpp locks the interpreter while it loads, so no thread of Python could read the pipe. During that time the
    parent has only two things to say, and both mean the end: it sends the exit command, or it dies. The same holds for
    the instant between the C++ side's `ready` and `stop_ending_on_input`. Returns whether something has happened
    already: the kernel sends no signal for what came earlier.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        return False
    fcntl.fcntl(commands, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(commands, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(commands, fcntl.F_SETFL, fcntl.fcntl(commands, fcntl.F_GETFL) | os.O_ASYNC)
    return bool(select.select([commands], [], [], 0)[0])


def stop_ending_on_input(commands: int) -> None:
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(commands, fcntl.F_SETFL, fcntl.fcntl(commands, fcntl.F_GETFL) & ~os.O_ASYNC)


def wait_for_exit_command(commands: int) -> int:
    """Wait for the exit command or the end of input. Returns the exit code: 0 for the command, 1 if the parent died."""
    with open(commands, "rb", buffering=0) as lines:
        return 0 if any(EXIT_COMMAND in line for line in lines) else 1
