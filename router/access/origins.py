"""PURE: the origins whose pages may use the router.

An origin in a request is taken apart first and compared part by part, so that no `*` reaches over the end of its part.
Called by `guard`, and by `settings` to read `--cors-origins`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from router.access.hosts import MAX_NAME_CHARACTERS, PORTS
from router.access.permissions import ADMIN, GENERATE, Permission

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._~%-]*)(?::(\d{1,5}))?", re.ASCII)
_PATTERN = re.compile(r"([a-z0-9+.*-]+)://(\[[0-9a-f:.*]+\]|[a-z0-9._~%*-]*)(?::([\d*]{1,5}))?/?", re.ASCII)
LOOPBACK = tuple(f"{scheme}://{name}:*" for scheme in PORTS for name in ("localhost", "127.0.0.1", "[::1]"))
# Programs and extensions that a person installed: those that Ollama allows by default (OLLAMA_ORIGINS).
_PROGRAMS = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_EXTENSIONS = ("chrome-extension", "moz-extension", "safari-web-extension")
DESKTOP = tuple(f"{scheme}://*:*" for scheme in (*_PROGRAMS, *_EXTENSIONS))


def split_origin(value: str) -> tuple[str, str, str] | None:
    """Scheme, host and port of an origin; None if the value is not an origin. A scheme's usual port is left out."""
    found = _ORIGIN.fullmatch(value.lower())
    if not found or len(value) > MAX_NAME_CHARACTERS:
        return None
    scheme, host, port = found.groups(default="")
    if scheme in PORTS and not host:
        return None
    return scheme, host, "" if port == PORTS.get(scheme) else port


def origin_pattern(word: str) -> re.Pattern[str]:
    """A pattern for origins that are written `SCHEME://HOST:PORT`, from the parts of `split_origin`.

    A `*` in `word` stands for
    - one label of a name, or for any number of labels if it comes first;
    - a whole host;
    - one number of an IPv4 address, or for several numbers if it comes last;
    - any port, or none.

    Raises ValueError.
    """
    found = _PATTERN.fullmatch(word.lower())
    if not found:
        raise ValueError(word)
    scheme, host, port = found.groups(default="")
    if not host and scheme in PORTS:
        raise ValueError(word)
    scheme_pattern = re.escape(scheme).replace(r"\*", "[a-z0-9+.-]*")
    usual_port_left_out = "" if port == PORTS.get(scheme) else port
    port_pattern = r"\d*" if port == "*" else re.escape(usual_port_left_out).replace(r"\*", r"\d*")
    return re.compile(f"{scheme_pattern}://{_host_pattern(host)}:{port_pattern}", re.ASCII)


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


class AllowedOrigins:
    """The origins whose pages may use the router.

    `listed` are origins with `*` in them, `localhost` for loopback on any port, `*` for any page, and `null` for pages
    without an origin. If any origin is listed, desktop programs are allowed too, except for what takes ADMIN.
    """

    def __init__(self, listed: Sequence[str]) -> None:
        words = [word for word in listed if word not in ("*", "null", "localhost")]
        self._named = [origin_pattern(word) for word in (*words, *(LOOPBACK if "localhost" in listed else ()))]
        self._words = tuple(listed)
        self._listed = [*self._named, *([origin_pattern("*://*:*")] if "*" in listed else ())]
        self._desktop = [origin_pattern(word) for word in DESKTOP] if listed else []
        self._has_null = "null" in listed

    def __repr__(self) -> str:
        return f"<AllowedOrigins: {', '.join(self._words) or 'none'}>"

    def permission(self, origin: str) -> Permission | None:
        """The highest permission of this origin's pages; None if they have none."""
        if origin == "null":
            return ADMIN if self._has_null else None
        normalized = _normalized(origin)
        if normalized is None:
            return None
        if any(pattern.fullmatch(normalized) for pattern in self._listed):
            return ADMIN
        return GENERATE if any(pattern.fullmatch(normalized) for pattern in self._desktop) else None

    def takes_credentials(self, origin: str) -> bool:
        """Whether this origin's pages may send cookies along, and read the answers: only pages that were named. A page
        that is let in with all others may not use what a proxy in front of the router knows the person by."""
        normalized = _normalized(origin)
        return normalized is not None and any(pattern.fullmatch(normalized) for pattern in self._named)


def _normalized(origin: str) -> str | None:
    """The origin in the form that patterns match; None if it is not an origin."""
    parts = split_origin(origin)
    return None if parts is None else "{}://{}:{}".format(*parts)
