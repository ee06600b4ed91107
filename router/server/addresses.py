"""From the words of `--host` to listening TCP sockets.

The one idea: all addresses are looked up before the first socket is opened. Only then is it known which of them are
the same, and whether `::` takes IPv4 too: as with llama-server it does, unless an IPv4 address is named beside it.
Called by `listeners.bind`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address
from typing import Any, NamedTuple

from router.errors import ConfigError

log = logging.getLogger("router.serve")

BACKLOG = 2048  # connections that the kernel keeps until they are accepted
EVERYWHERE = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # the address that stands for all of a family
# An address, or a whole family, that this machine does not have.
_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPFNOSUPPORT, errno.EPROTONOSUPPORT})
# With port 0, the port that is free on one address may be taken on another: then the next one is tried.
_ATTEMPTS = 16


class Address(NamedTuple):
    """One address to listen on. `host` is the word that named it; `place` is what `socket.bind` takes, without the
    port. A `dual` one takes IPv4 too."""

    host: str
    family: socket.AddressFamily
    place: tuple[Any, ...]
    dual: bool = False

    def at(self, port: int) -> tuple[Any, ...]:
        return self.place[0], port, *self.place[2:]


def listen(hosts: Sequence[str], port: int, *, reuse_port: bool = False) -> list[tuple[str, socket.socket]]:
    """Listening sockets for addresses and names of hosts, each with the word of `hosts` that it is for.

    A name may have several addresses: all that this machine has are used. Port 0 means a free port, the same one on
    every address. Raises ConfigError; then nothing is left open."""
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("--reuse-port: this system cannot share a port; leave it out.")
    found = distinct(address for host in hosts for address in _look_up(host, port))
    for attempt in range(_ATTEMPTS):
        try:
            return _listen(found, port, reuse_port)
        except _InUse as exc:
            if port or attempt == _ATTEMPTS - 1:
                raise _refusal(
                    exc.host, exc.port, "another program uses it; stop that, or choose another one with --port"
                ) from exc
    raise AssertionError("the last attempt returns or raises")


def distinct(addresses: Iterable[Address]) -> list[Address]:
    """Each address once, without those that `0.0.0.0` or `::` cover. A lone `::` is made dual."""
    found = list({(address.family, address.place): address for address in addresses}.values())
    whole = {address.family for address in found if address.place[0] == EVERYWHERE[address.family]}
    is_dual = socket.AF_INET6 in whole and not any(address.family == socket.AF_INET for address in found)
    return [
        address._replace(dual=is_dual)
        for address in found
        if address.family not in whole or address.place[0] == EVERYWHERE[address.family]
    ]


class _InUse(Exception):
    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.host, self.port = host, port


def _look_up(host: str, port: int) -> list[Address]:
    """The addresses of one word. `[::1]` is what URLs have for `::1`."""
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:  # UnicodeError: a label of the name is too long for DNS
        raise _refusal(host, port, f"{getattr(exc, 'strerror', None) or exc}; check --host and --port") from exc
    return [_without_mapping(Address(host, family, place)) for family, _, _, _, place in found if family in EVERYWHERE]


def _without_mapping(address: Address) -> Address:
    """An IPv4 address that is written as IPv6 (`::ffff:127.0.0.1`) as what it is."""
    if address.family == socket.AF_INET6 and (ipv4 := IPv6Address(address.place[0]).ipv4_mapped):
        return address._replace(family=socket.AF_INET, place=(str(ipv4), 0))
    return address


def _listen(addresses: Sequence[Address], port: int, reuse_port: bool) -> list[tuple[str, socket.socket]]:
    """Raises _InUse if the port is taken on one of the addresses."""
    opened: list[tuple[str, socket.socket]] = []
    absent: list[tuple[Address, OSError]] = []
    waiting = list(addresses)
    with contextlib.ExitStack() as undo:
        while waiting:
            address = waiting.pop(0)
            try:
                sock = _open(address, port, reuse_port)
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:
                    raise _InUse(address.host, port) from exc
                if exc.errno not in _ABSENT:
                    raise _refusal(address.host, port, _reason(exc)) from exc
                absent.append((address, exc))
                if address.dual:
                    waiting.append(Address(address.host, socket.AF_INET, (EVERYWHERE[socket.AF_INET], 0)))
                continue
            undo.callback(sock.close)
            opened.append((address.host, sock))
            port = port or sock.getsockname()[1]
        served = {host for host, _ in opened}
        for address, why in absent:
            if address.host not in served:
                raise _refusal(address.host, port, _reason(why)) from why
            _warn(address, why)
        undo.pop_all()
    return opened


def _open(address: Address, port: int, reuse_port: bool) -> socket.socket:
    dual = address.dual and socket.has_dualstack_ipv6()
    if address.dual and not dual:  # no IPv6 at all, or a system whose IPv6 sockets never take IPv4
        raise OSError(errno.EAFNOSUPPORT, "no socket of this machine takes both IPv6 and IPv4")
    sock = socket.create_server(
        address.at(port), family=address.family, backlog=BACKLOG, reuse_port=reuse_port, dualstack_ipv6=dual
    )
    sock.setblocking(False)
    return sock


def _warn(address: Address, exc: OSError) -> None:
    if address.dual:
        log.warning("this machine has no IPv6: --host %s listens on 0.0.0.0, with IPv4 alone", address.host)
    else:
        log.warning("--host %s is also %s, which is left out: %s", address.host, address.place[0], _words(exc))


def _reason(exc: OSError) -> str:
    return f"{_words(exc)}; check --host and --port"


def _words(exc: OSError) -> str:
    return str(exc.strerror or exc).partition(" (")[0]  # Python repeats the address in brackets


def _refusal(host: str, port: int, why: str) -> ConfigError:
    return ConfigError(f"Cannot listen on {host} port {port}: {why}.")
