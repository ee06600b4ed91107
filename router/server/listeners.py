"""Where the router listens: its TCP and unix sockets, their URLs, the certificate, and the names of this machine.

`serve` binds the sockets before anything else starts: a port in use is then reported at once, and nothing must be
undone.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

from router import files
from router.access.hosts import is_loopback
from router.errors import ConfigError

MAX_PEM_BYTES = 2**20  # of a certificate's file, and of a key's
BACKLOG = 2048  # connections that the kernel keeps until they are accepted
FULL_NAME_PATIENCE_S = 1.0


def bind(hosts: Sequence[str], port: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Listening sockets for addresses, host names and paths that end in `.sock`. `stack` closes them.

    Port 0 means a free port, the same one on every host. Raises ConfigError."""
    sockets: list[socket.socket] = []
    for host in hosts:
        if host.endswith(".sock"):
            sockets.append(stack.enter_context(_bind_path(Path(host))))
            stack.callback(Path(host).unlink, missing_ok=True)
        else:
            sockets.append(stack.enter_context(_bind_address(host, port)))
            port = port or sockets[-1].getsockname()[1]
    return sockets


def url_of(sock: socket.socket, scheme: str) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def reachable_places(sockets: Sequence[socket.socket]) -> list[str]:
    """Addresses that other machines can reach, as `HOST port PORT`."""
    inet = [sock for sock in sockets if sock.family in (socket.AF_INET, socket.AF_INET6)]
    return [f"{host} port {port}" for host, port, *_ in (sock.getsockname() for sock in inet) if not is_loopback(host)]


def names_of_machine() -> list[str]:
    """The names under which pages may reach this machine. Its full name may come from DNS, which is not waited for
    long."""
    name = socket.gethostname()
    full: list[str] = []
    lookup = threading.Thread(target=lambda: full.append(socket.getfqdn(name)), daemon=True)
    lookup.start()
    lookup.join(FULL_NAME_PATIENCE_S)
    return [name, name.partition(".")[0], f"{name.partition('.')[0]}.local", *full]


def check_certificate(key: Path | None, certificate: Path | None) -> None:
    """Raises ConfigError unless both files can be read and belong together."""
    if key is None or certificate is None:
        return
    for flag, file in (("--ssl-key-file", key), ("--ssl-cert-file", certificate)):
        try:
            files.read(file, MAX_PEM_BYTES)
        except OSError as exc:
            raise ConfigError(f"{flag} {file} cannot be read: {exc.strerror}.") from exc
    try:  # an empty pass phrase, because without one OpenSSL asks the terminal for that of an encrypted key
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as exc:
        raise ConfigError(
            f"{certificate} and {key} are no certificate and plain private key that belong together, as PEM "
            f"({exc.reason or 'unreadable'})."
        ) from exc


def _bind_address(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.create_server(address[:2], family=family, backlog=BACKLOG, reuse_port=False)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            why = "another program uses it; stop that, or choose another one with --port"
        else:
            # Python repeats the address in brackets.
            why = f"{str(exc.strerror).partition(' (')[0]}; check --host and --port"
        raise ConfigError(f"Cannot listen on {host} port {port}: {why}.") from exc
    sock.setblocking(False)
    return sock


def _bind_path(path: Path) -> socket.socket:
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise ConfigError(f"Cannot listen on {path}: another program listens there.")
            path.unlink()  # a router that was killed has left it
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as exc:
        raise ConfigError(f"Cannot listen on {path}: {exc.strerror or exc}.") from exc
    sock.setblocking(False)
    return sock
