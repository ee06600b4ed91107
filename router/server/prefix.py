"""PURE: `--api-prefix`: the paths of requests without it, and the paths that clients see with it.

The one idea: the prefix is taken away before anything looks at a path. Routes, permissions and dialects know paths as
they are without a prefix. A path outside the prefix is no path of the router, as in llama-server. Used by `fast_path`
and `connection`.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from starlette.types import Scope, Send

from router.proxy.head import Head

OUTSIDE = ""  # no table of paths has it: what may be done there is what may be done with any unknown path
CLIENT_PATH = "router.client_path"  # where an inner scope keeps the path that the client sent


class Prefix:
    """`path` begins with a slash and does not end with one. Example::

    prefix = Prefix("/llm")
    prefix.strip("/llm/v1/models", b"/llm/v1/models")  # ("/v1/models", b"/v1/models")
    prefix.strip("/v1/models", b"/v1/models")  # None
    """

    def __init__(self, path: str) -> None:
        self.path = path
        # The part of a target that decodes to the prefix, whichever of its characters are encoded.
        self._encoded = re.compile(rb"(?:%%[0-9a-fA-F]{2}|.){%d}(?:/|%%2[fF])?" % len(path), re.DOTALL)

    def __repr__(self) -> str:
        return f"<Prefix {self.path}>"

    def strip(self, path: str, raw: bytes) -> tuple[str, bytes] | None:
        """A path and its encoded form without the prefix; None if it is not below the prefix."""
        if not path.startswith(self.path):
            return None
        inner = path[len(self.path) :] or "/"
        if inner[0] != "/" or (found := self._encoded.match(raw)) is None:
            return None
        return inner, b"/" + raw[found.end() :]

    def inner_scope(self, scope: Scope) -> Scope:
        """The ASGI scope of a request as the application knows it. A path outside the prefix becomes OUTSIDE."""
        path, raw = self.strip(scope["path"], scope["raw_path"]) or (OUTSIDE, scope["raw_path"])
        return {**scope, "path": path, "raw_path": raw, CLIENT_PATH: scope["path"]}

    def inner_head(self, head: Head) -> Head | None:
        """As `inner_scope`, for the fast path; None for a path outside the prefix."""
        raw, mark, query = head.target.partition(b"?")
        found = self.strip(head.path, raw)
        return Head(head.method, found[0], found[1] + mark + query, head.headers) if found else None

    def with_location(self, send: Send) -> Send:
        """Wraps `send`: where a response sends the client elsewhere in the router, the place has the prefix."""

        async def send_with_location(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                message["headers"] = [
                    (name, self._below(value) if name == b"location" else value) for name, value in headers
                ]
            await send(message)

        return send_with_location

    def _below(self, location: bytes) -> bytes:
        url = urlsplit(location.decode("latin-1"))
        if not url.path.startswith("/"):  # it is relative to the path that the client sent
            return location
        return urlunsplit(url._replace(path=self.path + url.path)).encode("latin-1")


def client_path(scope: Scope) -> str:
    """The path that the client sent."""
    path: str = scope.get(CLIENT_PATH, scope["path"])
    return path
