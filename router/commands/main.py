"""`main` runs the command that a command line names."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from router.commands.command import EXIT_CODES, Command, fail
from router.commands.table import COMMANDS
from router.errors import FlagError, RouterError
from router.logs import streams as logs
from router.near import nearest

# What a full or failing disk raises when stdout is a file.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main(argv: Sequence[str] | None = None, on_hang_up: Any = None) -> int:
    """Run a command; returns the exit code. `on_hang_up` is what SIGHUP did before this program began to ignore it."""
    logs.fill_standard_streams()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv), on_hang_up)
        sys.stdout.flush()
        return code
    except RouterError as exc:
        return fail(exc, exc.exit_code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `llama-router list | head`
        _discard_stdout()
        return 0
    except OSError as exc:
        if exc.filename is not None or exc.errno not in DISK_ERRORS:
            raise
        _discard_stdout()
        return fail(RouterError(f"stdout cannot be written ({exc.strerror})."), 1)
    finally:
        logs.flush()


def _run(words: list[str], on_hang_up: Any) -> int:
    name = words.pop(0) if words and not words[0].startswith("-") else ""
    command = COMMANDS.get(name or "serve")
    if command is None:
        near = nearest(name, COMMANDS)
        hint = f"did you mean {near[0]}?" if near else "llama-router --help lists the commands"
        raise FlagError(f"there is no command {name[:80]!r}; {hint}")
    if {"-h", "--help", "--usage"} & set(words):
        print(_help(command, "" if name else "\n".join(other.usage for other in COMMANDS.values())))
        return 0
    if "--version" in words:
        from router import __version__

        print(f"llama-router {__version__}")
        return 0
    if command.client and on_hang_up is not None:  # its terminal has gone: unlike a router, it has no more to do
        signal.signal(signal.SIGHUP, on_hang_up)
    return command.run(words)


def _discard_stdout() -> None:
    """Otherwise the interpreter would try to write the rest when it exits, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _help(command: Command, overview: str) -> str:
    first, *others = (overview or command.usage).splitlines()
    lines = [f"usage: llama-router {first}", *(f"       llama-router {usage}" for usage in others)]
    options = ""
    if command.client:
        from router.client.options import help_text

        options = help_text(command.client)
    elif command.takes_options:
        from router import settings

        options = settings.help_text()
    return "\n\n".join(part for part in ("\n".join(lines), command.help, options, EXIT_CODES.rstrip()) if part)
