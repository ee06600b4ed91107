"""Listening sockets that a service manager has opened for the router: systemd's socket activation.

The service manager holds the sockets too. So clients can connect while no router runs: the kernel keeps what they send
until the next router accepts it, and a restart loses no request. The protocol is that of sd_listen_fds(3): the variable
LISTEN_FDS says how many file descriptors there are, from 3 on, and LISTEN_PID which process they are for. The command
line takes the variables before any other process starts; `serve` opens the sockets.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import MutableMapping
from dataclasses import dataclass

from router.errors import ConfigError

log = logging.getLogger("router.serve")

FIRST_DESCRIPTOR = 3
# The last one says which process is meant even if its number is used again; the number is enough here.
VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
FAMILIES = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", socket.AF_INET)}


@dataclass(frozen=True, slots=True)
class Activation:
    """What the variables said: a number of descriptors, the process that they are for, and their names."""

    count: str = ""
    pid: str = ""
    names: tuple[str, ...] = ()

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Activation:
        """Removes the variables from the environment, so that no child takes them for its own."""
        count, pid, names, _ = (environ.pop(name, "") for name in VARIABLES)
        return cls(count, pid, tuple(names.split(":")) if names else ())

    def sockets(self) -> list[socket.socket]:
        """The listening sockets; empty if there are none for this process. Raises ConfigError."""
        if not self.count:
            return []
        if self.pid != str(os.getpid()):
            log.warning(
                "LISTEN_FDS is for process %s, and this is %d: the sockets are not used. A script that starts the "
                "router must do so with exec.",
                self.pid[:20] or "?",
                os.getpid(),
            )
            return []
        if not self.count.isascii() or not self.count.isdigit():
            raise ConfigError(f"LISTEN_FDS={self.count[:20]} is no number of descriptors: unset it.")
        return [self._socket(FIRST_DESCRIPTOR + index) for index in range(int(self.count[:9]))]

    def _socket(self, descriptor: int) -> socket.socket:
        index = descriptor - FIRST_DESCRIPTOR
        what = f"Descriptor {descriptor} of LISTEN_FDS" + (f" ({self.names[index]})" if index < len(self.names) else "")
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{what} is no socket: use ListenStream= in the .socket unit.")
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
            is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as exc:
            raise ConfigError(f"{what} cannot be used ({exc.strerror}): check the .socket unit.") from exc
        if sock.family not in FAMILIES or sock.type != socket.SOCK_STREAM:
            raise ConfigError(f"{what} is no TCP or unix stream socket: use ListenStream= in the .socket unit.")
        if not is_listening:
            raise ConfigError(f"{what} does not listen: leave Accept= out of the .socket unit.")
        sock.setblocking(False)
        return sock
