"""What a service manager does for a router: it holds the listening sockets, and hears what the router notifies.

As systemd does it (sd_listen_fds(3), sd_notify(3)): descriptors from 3 on, LISTEN_PID is the process itself, and a
restart is a SIGTERM, the wait for the end, and a new process with the same sockets.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.routers import environment
from tests.waiting import PATIENCE_S, until

# What runs between fork and exec: the number of the process stays the same for the router.
SCRIPT = """
import os, sys
given, command = sys.argv[1], sys.argv[2:]
for index, number in enumerate(given.split(",")):
    os.dup2(int(number), 3 + index)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.environ.setdefault("LISTEN_FDS", str(index + 1))
os.execv(command[0], command)
"""
FIRST_FREE = 100  # copies of the sockets are above the numbers that the router gets


class Notifications:
    """The socket for NOTIFY_SOCKET, and what has come to it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.sock.setblocking(False)
        self._messages: list[list[str]] = []

    def messages(self) -> list[list[str]]:
        """All messages so far, each as its lines."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._messages.append(self.sock.recv(4096).decode().split("\n"))
        return self._messages

    def lines(self) -> list[str]:
        return [line for message in self.messages() for line in message]


class Activator:
    """Starts `python -m router` with these flags and these sockets, again and again.

    `environ` may hold a wrong LISTEN_PID or LISTEN_FDS.

    ::

        with Activator([sock], "--models-dir", folder, log=log) as activator:
            activator.start()
            activator.restart()
    """

    def __init__(self, sockets: Sequence[socket.socket], *flags: str, log: Path, **environ: str) -> None:
        self._sockets = sockets
        self._flags, self._log, self._environ = flags, log, environ
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, and do not wait."""
        given = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, FIRST_FREE) for sock in self._sockets]
        command = [sys.executable, "-m", "router", *self._flags]
        if given:
            command = [sys.executable, "-ISc", SCRIPT, ",".join(map(str, given)), *command]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment(self._log.parent), **self._environ},
                pass_fds=given,
            )
        for number in given:
            os.close(number)
        return self.process

    def start(self) -> subprocess.Popen[bytes]:
        """Returns when the router listens."""
        before = self.log.count("is listening")
        process = self.launch()
        until(lambda: self.log.count("is listening") > before or process.poll() is not None)
        assert process.poll() is None, self.log
        return process

    def stop(self) -> int:
        process = self.process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE_S)

    def restart(self) -> int:
        """As `systemctl restart`; the exit code of the old process."""
        code = self.stop()
        self.start()
        return code

    def __enter__(self) -> Activator:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
