"""Names that a router answers to, and origins whose pages may ask, as they are listed and as a request says them.

PURE. What a request says is taken apart first and compared part by part, so that no `*` reaches over the end of its
part. Called by `doors`, and by `settings` to read the lists.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from functools import lru_cache

from router.access.needs import ADMIN, GENERATE, Need

# Hosts

_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[a-z0-9._-]+)(?::(\d{0,5}))?", re.ASCII)
# What containers and virtual machines call the machine that they run on. Nobody can own a name below .internal.
_MACHINE = re.compile(r"host\.[a-z0-9-]+\.internal|[a-z]+\.docker\.internal")
_LONGEST = 300  # characters of a host or an origin; a name in DNS has at most 253
PORTS = {"http": "80", "https": "443"}


def split_host(value: str) -> tuple[str, str] | None:
    """The name or address, and the port or nothing, of a `Host`; None where it is none."""
    found = _HOST.fullmatch(value.lower())
    if not found or len(value) > _LONGEST:
        return None
    name = found[1].strip("[]") if found[1].startswith("[") else found[1].removesuffix(".")
    return (name, found[2] or "") if name else None


def is_address(name: str) -> bool:
    """Whether no DNS is asked for it, however short it is written (127.1)."""
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
    """Whether an address is loopback, also one of IPv4 told as IPv6."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


class Hosts:
    """The names that this router answers to: those of loopback, any address, the machine's `own`, and what is
    `allowed`: names, `*.example.com` for all below it, or `*`."""

    def __init__(self, allowed: Sequence[str] = (), own: Iterable[str] = ()) -> None:
        self.is_any = "*" in allowed
        self._own = {name.lower().removesuffix(".") for name in own}
        listed = [host_name(word) for word in allowed if word != "*"]
        self._own.update(name for name in listed if not name.startswith("*."))
        self._below = tuple(name[1:] for name in listed if name.startswith("*."))

    def accept(self, name: str) -> bool:
        if self.is_any or name == "localhost" or name.endswith(".localhost") or name in self._own:
            return True
        if any(name.endswith(end) and len(name) > len(end) for end in self._below):
            return True
        return is_address(name) or _MACHINE.fullmatch(name) is not None


def host_name(word: str) -> str:
    """A name as it is allowed, without a port. Raises ValueError."""
    below = word.startswith("*.")
    found = split_host(word[2:] if below else word)
    if found is None and ":" in word:
        found = split_host(f"[{word}]")
    if found is None:
        raise ValueError(word)
    return f"*.{found[0]}" if below else found[0]


# Origins

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._~%-]*)(?::(\d{1,5}))?", re.ASCII)
_PATTERN = re.compile(r"([a-z0-9+.*-]+)://(\[[0-9a-f:.*]+\]|[a-z0-9._~%*-]*)(?::([\d*]{1,5}))?/?", re.ASCII)
LOOPBACK = tuple(f"{scheme}://{name}:*" for scheme in PORTS for name in ("localhost", "127.0.0.1", "[::1]"))
# Programs and extensions that a person installed: those that Ollama allows by default (OLLAMA_ORIGINS).
_PROGRAMS = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_EXTENSIONS = ("chrome-extension", "moz-extension", "safari-web-extension")
DESKTOP = tuple(f"{scheme}://*:*" for scheme in (*_PROGRAMS, *_EXTENSIONS))


def split_origin(value: str) -> tuple[str, str, str] | None:
    """Scheme, host and port of an origin, a port that goes without saying left out; None where it is none."""
    found = _ORIGIN.fullmatch(value.lower())
    if not found or len(value) > _LONGEST:
        return None
    scheme, host, port = found.groups(default="")
    if scheme in PORTS and not host:
        return None
    return scheme, host, "" if port == PORTS.get(scheme) else port


def origin_pattern(word: str) -> re.Pattern[str]:
    """What an origin may look like, written as `split_origin` tells it with `://` and `:` between. A `*` stands for a
    label of a name, at its front for any number of them; for all of a host; for a number of an address, at its end for
    several; for any port, or none. Raises ValueError."""
    found = _PATTERN.fullmatch(word.lower())
    if not found:
        raise ValueError(word)
    scheme, host, port = found.groups(default="")
    if not host and scheme in PORTS:
        raise ValueError(word)
    told = re.escape(scheme).replace(r"\*", "[a-z0-9+.-]*"), _host_pattern(host)
    ports = r"\d*" if port == "*" else re.escape("" if port == PORTS.get(scheme) else port).replace(r"\*", r"\d*")
    return re.compile("://".join(told) + ":" + ports, re.ASCII)


def _host_pattern(host: str) -> str:
    if host == "*":
        return r"(?:\[[0-9a-f:.]+\]|[a-z0-9._~%-]*)"
    if host.startswith("["):
        return re.escape(host).replace(r"\*", "[0-9a-f:.]*")
    labels = host.split(".")
    if all(label == "*" or label.isdigit() for label in labels) and any(map(str.isdigit, labels)):
        numbers = [r"\d{1,3}" if label == "*" else label for label in labels]
        return r"\.".join(numbers) + (r"(?:\.\d{1,3})*" if labels[-1] == "*" else "")
    front, rest = (r"(?:[a-z0-9_-]+\.)+", labels[1:]) if labels[0] == "*" else ("", labels)
    return front + r"\.".join(re.escape(label).replace(r"\*", "[a-z0-9_~%-]*") for label in rest)


class Origins:
    """Whose pages may ask: `listed` are origins with `*` inside, `localhost` for loopback on any port, `*` for any
    page, `null` for those that have no origin. With any of them come the desktop programs, which may not do what needs
    ADMIN."""

    def __init__(self, listed: Sequence[str]) -> None:
        words = [word for word in listed if word not in ("*", "null", "localhost")]
        patterns = [origin_pattern(word) for word in (*words, *(LOOPBACK if "localhost" in listed else ()))]
        self._listed = [*patterns, *([origin_pattern("*://*:*")] if "*" in listed else ())]
        self._desktop = [origin_pattern(word) for word in DESKTOP] if listed else []
        self._has_null = "null" in listed

    def most(self, origin: str) -> Need | None:
        """The most that its pages may ask for; None is nothing."""
        if origin == "null":
            return ADMIN if self._has_null else None
        parts = split_origin(origin)
        if parts is None:
            return None
        told = "{}://{}:{}".format(*parts)
        if any(pattern.fullmatch(told) for pattern in self._listed):
            return ADMIN
        return GENERATE if any(pattern.fullmatch(told) for pattern in self._desktop) else None
