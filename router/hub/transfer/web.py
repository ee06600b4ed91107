"""Requests to servers that are not the hub's: addresses of files, and registries of Docker.

The one idea: a redirect is followed here, one at a time, so that no password, no token and no secure connection is lost
on the way to another host. A server gets credentials only if they were given for it: those of its address, the hub's
token if it is the hub, and the token that a registry gives to everybody. `download` and `listings` call it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

import httpx2
from huggingface_hub import constants, get_token

MAX_REDIRECTS = 10
MAX_ANSWER_BYTES = 4 << 20  # of a manifest, or of a token
AGENT = "llama-router"
# RFC 6750: `Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:ai/x:pull"`
_CHALLENGE = re.compile(r'(realm|service|scope)="([^"]*)"')


class Unsafe(Exception):
    """A redirect that must not be followed."""


class Web:
    """One client for all threads. With `is_registry` the server is asked for a token if it wants one."""

    def __init__(self) -> None:
        self._client = httpx2.Client(follow_redirects=False, timeout=float(constants.HF_HUB_DOWNLOAD_TIMEOUT))
        self._tokens: dict[tuple[str, str, int | None], str] = {}  # of registries, by origin

    def __repr__(self) -> str:
        return f"<Web with tokens of {len(self._tokens)} registries>"

    @contextmanager
    def stream(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, *, is_registry: bool = False
    ) -> Iterator[httpx2.Response]:
        """The answer at the end of all redirects. The `x-linked-` headers on the way are in its `extensions["linked"]`.

        Raises httpx2's errors, HTTPStatusError too, and Unsafe.
        """
        first, linked, asked = urlsplit(url), dict[str, str](), False
        for _ in range(MAX_REDIRECTS):
            parts = urlsplit(url)
            own = self._headers(parts, first, is_registry=is_registry)
            with self._client.stream(method, url, headers={**own, **(headers or {})}) as response:
                linked |= {name: value for name, value in response.headers.items() if name.startswith("x-linked-")}
                if response.is_redirect:
                    url = next_address(url, response.headers.get("Location", ""))
                    continue
                if response.status_code == 401 and is_registry and not asked and _origin(parts) == _origin(first):
                    asked = True
                    if token := self._token(response.headers.get("WWW-Authenticate", ""), first):
                        self._tokens[_origin(first)] = token
                        continue
                if response.status_code != httpx2.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    response.raise_for_status()
                response.extensions["linked"] = linked
                yield response
                return
        raise Unsafe(f"there are more than {MAX_REDIRECTS} redirects")

    def read(self, url: str, headers: Mapping[str, str], *, is_registry: bool = False) -> bytes:
        """A small answer."""
        with self.stream("GET", url, headers, is_registry=is_registry) as response:
            body = b""
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise Unsafe("the answer is too long")
            return body

    def _headers(self, parts: SplitResult, first: SplitResult, *, is_registry: bool) -> dict[str, str]:
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
        if _origin(parts) == _origin(urlsplit(constants.ENDPOINT)) and not parts.username and (token := get_token()):
            headers["Authorization"] = f"Bearer {token}"
        elif is_registry and _origin(parts) == _origin(first) and (known := self._tokens.get(_origin(first))):
            headers["Authorization"] = f"Bearer {known}"
        return headers

    def _token(self, challenge: str, first: SplitResult) -> str | None:
        """The token that a registry gives to everybody."""
        if not challenge.lower().startswith("bearer "):
            return None
        fields = dict(_CHALLENGE.findall(challenge))
        realm = urlsplit(fields.pop("realm", ""))
        if realm.scheme not in ("http", "https") or (realm.scheme == "http" and first.scheme == "https"):
            return None
        query = "&".join(filter(None, (realm.query, urlencode(fields))))
        answer = json.loads(self.read(realm._replace(query=query).geturl(), {}))
        token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
        return token if isinstance(token, str) and re.fullmatch(r"[!-~]{1,16384}", token) else None


@lru_cache(maxsize=1)
def web() -> Web:
    return Web()


def is_enough_room(folder: str, least: int) -> bool:
    """Whether so many bytes are free on the disk of a folder."""
    status = os.statvfs(folder) if hasattr(os, "statvfs") else None
    return status is None or status.f_bavail * status.f_frsize >= least


def next_address(url: str, location: str) -> str:
    """Where a redirect leads. Raises Unsafe."""
    before, after = urlsplit(url), urlsplit(urljoin(url, location))
    if not location or after.scheme not in ("http", "https") or not after.hostname:
        raise Unsafe("it redirects to nowhere")
    if before.scheme == "https" and after.scheme == "http":
        raise Unsafe(f"it redirects from https to http ({after.hostname}), where anybody could change the file")
    if _origin(before) == _origin(after) and "@" not in after.netloc and "@" in before.netloc:
        after = after._replace(netloc=f"{before.netloc.rpartition('@')[0]}@{after.netloc}")
    return after.geturl()


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
