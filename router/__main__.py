"""The program: signals have their meaning from its first moment, then `commands` runs one.

Nothing else is imported before that, because imports take a while. SIGHUP, which asks a running router to read its
files again, must not end one that starts. And a program that is the first process of a container is not ended by a
signal for which it has no handler.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType


class Terminated(SystemExit):
    """SIGTERM, before a router serves or in another command: what was made is undone on the way out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    on_hang_up = signal.signal(signal.SIGHUP, signal.SIG_IGN) if hasattr(signal, "SIGHUP") else None
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        from router.commands.main import main as run

        return run(argv, on_hang_up)
    except KeyboardInterrupt:  # while modules were imported, or a second time
        return 130
    except Terminated as exc:
        signal.raise_signal(signal.SIGTERM)  # so that whoever waits for this process sees what has ended it
        return int(exc.code or 0)  # the first process of a container lives on


def _on_terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # for a second one
    raise Terminated(128 + number)


if __name__ == "__main__":
    sys.exit(main())
