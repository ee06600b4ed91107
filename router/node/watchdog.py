"""Children must not outlive their router, however it ends. There are three safety nets, the quickest first:

1. A child that has loaded ends when its stdin closes. The kernel closes it when the router dies.
2. The `Watchdog` kills the process groups of all children when the router dies. It also catches a child that still
   loads, that hangs, or that ignores its stdin.
3. `RunDirectory.open` looks for routers that are gone, and ends the processes that carry their mark.

Why a shell, and not the parent-death signal of Linux: in the child it would be set too late, in a `preexec_fn` it
forbids vfork (which costs 30 ms with half a GB of heap), so every start would need a wrapper. It also does not reach
grandchildren, and it fires when the *thread* that spawned the child ends. The watchdog costs one short write for each
start. `local` has one.
"""

from __future__ import annotations

import logging
import subprocess

log = logging.getLogger("router.orphans")

# Each line holds all process groups, so the shell needs to remember only the last one. `read` fails when the router's
# end of the pipe closes.
SCRIPT = """
trap "" HUP INT TERM
while read -r groups; do live=$groups; done
[ -n "$live" ] && kill -s KILL -- $live
"""


class Watchdog:
    """A shell that waits at the end of a pipe, and kills the watched process groups when the pipe closes."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._shell: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Watchdog {len(self._groups)} process groups>"

    def watch(self, group: int) -> None:
        self._groups.add(group)
        self._send_groups()

    def forget(self, group: int) -> None:
        self._groups.discard(group)
        self._send_groups()

    def close(self) -> None:
        """Kill what is still watched."""
        if self._shell:
            self._shell.communicate()
            self._shell = None

    def _send_groups(self) -> None:
        line = (" ".join(f"-{group}" for group in sorted(self._groups)) + "\n").encode()
        for _ in range(2):  # a second time if the shell was killed
            shell = self._shell = self._shell or self._start()
            if shell is None or shell.stdin is None:
                return
            try:
                shell.stdin.write(line)
                return
            except BrokenPipeError:
                self.close()

    def _start(self) -> subprocess.Popen[bytes] | None:
        try:
            return subprocess.Popen(
                ["/bin/sh", "-c", SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            log.warning("no /bin/sh (%s): children that still load will outlive a killed router", error)
            return None
