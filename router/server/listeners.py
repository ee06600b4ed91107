"""Where the router listens: its TCP and unix sockets, their URLs, the certificate, and the names of this machine.

`serve` binds the sockets before anything else starts: a port in use is then reported at once, and nothing must be
undone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from router import files
from router.access.hosts import is_loopback
from router.errors import ConfigError
from router.server import addresses
from router.server.addresses import BACKLOG

MAX_PEM_BYTES = 2**20  # of a certificate's file, and of a key's
FULL_NAME_PATIENCE_S = 1.0
MAX_PATH_BYTES = 107 if sys.platform == "linux" else 103  # of a unix socket, without the zero at its end (sockaddr_un)


def bind(
    hosts: Sequence[str], port: int, stack: contextlib.ExitStack, *, reuse_port: bool = False
) -> list[socket.socket]:
    """Listening sockets for addresses, host names and paths that end in `.sock`, in this order. `stack` closes them.

    Port 0 means a free port, the same one on every host. With `reuse_port` other programs may listen there too.
    Raises ConfigError."""
    paths: dict[str, socket.socket] = {}
    for host in hosts:
        if is_path(host) and host not in paths:
            paths[host] = stack.enter_context(_bind_path(Path(host)))
            stack.callback(Path(host).unlink, missing_ok=True)
    found = addresses.listen([host for host in hosts if not is_path(host)], port, reuse_port=reuse_port)
    for _, sock in found:
        stack.enter_context(sock)
    opened = [*paths.items(), *found]
    return [sock for host in dict.fromkeys(hosts) for word, sock in opened if word == host]


def is_path(host: str) -> bool:
    """Whether this word of `--host` is the path of a unix socket."""
    return host.endswith(".sock")


def url_of(sock: socket.socket, scheme: str, prefix: str = "") -> str:
    """`prefix` is that of `--api-prefix`, which the paths below the URL do not repeat."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        name = sock.getsockname()  # bytes for a name of Linux that is no path; it is written with @ everywhere
        return f"unix:{name if isinstance(name, str) else '@' + os.fsdecode(name[1:])}"
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}{prefix}" if ":" in host else f"{scheme}://{host}:{port}{prefix}"


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


def _bind_path(path: Path) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError(f"Cannot listen on {path}: this system has no unix sockets. Name an address with --host.")
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ConfigError(
            f"Cannot listen on {path}: the path of a unix socket may have {MAX_PATH_BYTES} bytes; name a shorter one."
        )
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
