"""PURE: the host names that the router answers to.

A name in a request is taken apart first and compared label by label, so that no `*` reaches over the end of its label.
Called by `guard`, and by `settings` to read `--allowed-hosts`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from functools import lru_cache

_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[a-z0-9._-]+)(?::(\d{0,5}))?", re.ASCII)
# What containers and virtual machines call the machine that they run on. Names below .internal cannot be bought.
_MACHINE = re.compile(r"host\.[a-z0-9-]+\.internal|[a-z]+\.docker\.internal")
MAX_NAME_CHARACTERS = 300  # of a host or an origin; a name in DNS has at most 253
PORTS = {"http": "80", "https": "443"}


def split_host(value: str) -> tuple[str, str] | None:
    """The name or address in a `Host` header, and its port or an empty string; None if the value is not a host."""
    found = _HOST.fullmatch(value.lower())
    if not found or len(value) > MAX_NAME_CHARACTERS:
        return None
    name = found[1].strip("[]") if found[1].startswith("[") else found[1].removesuffix(".")
    return (name, found[2] or "") if name else None


def is_address(name: str) -> bool:
    """It is an IP address, which takes no DNS, however short it is written (127.1)."""
    try:
        ipaddress.ip_address(name.replace("%25", "%"))
    except ValueError:
        try:
            socket.inet_aton(name)
        except OSError:
            return False
    return True


@lru_cache(maxsize=64)
def is_loopback(address: str) -> bool:
    """It is a loopback address, of IPv4, of IPv6, or of IPv4 written as IPv6."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


class AllowedHosts:
    """The names that this router answers to.

    These are the names of loopback, any IP address, the machine's `own` names, and the names that are `allowed`: a
    name, `*.example.com` for all names below it, or `*` for any name.
    """

    def __init__(self, allowed: Sequence[str] = (), own: Iterable[str] = ()) -> None:
        self.is_any = "*" in allowed
        self._names = {name.lower().removesuffix(".") for name in own}
        patterns = [parse_host_pattern(word) for word in allowed if word != "*"]
        self._names.update(name for name in patterns if not name.startswith("*."))
        self._suffixes = tuple(name[1:] for name in patterns if name.startswith("*."))

    def __repr__(self) -> str:
        suffixes = [f"*{suffix}" for suffix in self._suffixes]
        return f"<AllowedHosts: {'any' if self.is_any else ', '.join([*sorted(self._names), *suffixes])}>"

    def accept(self, name: str) -> bool:
        if self.is_any or name == "localhost" or name.endswith(".localhost") or name in self._names:
            return True
        if any(name.endswith(suffix) and len(name) > len(suffix) for suffix in self._suffixes):
            return True
        return is_address(name) or _MACHINE.fullmatch(name) is not None


def parse_host_pattern(word: str) -> str:
    """A name, or `*.` and a name, in the form of `--allowed-hosts`: lower case, without a port. Raises ValueError."""
    is_wildcard = word.startswith("*.")
    found = split_host(word[2:] if is_wildcard else word)
    if found is None and ":" in word:
        found = split_host(f"[{word}]")
    if found is None:
        raise ValueError(word)
    return f"*.{found[0]}" if is_wildcard else found[0]
