"""Requests to the router that a command means, and what may go wrong, as sentences.

No redirect is followed: the key would go to where it leads. A proxy of the environment is used for https to other
machines alone, which it cannot look into. Every command has one Session. The door to httpx, with `demo`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from router.client.failures import KeyRefused, NotReached, of_answer
from router.client.target import Target, key_hint, of_settings
from router.errors import FlagError, RouterError
from router.logs.letters import visible
from router.settings import Settings
from router.text import valid

TIMEOUT_S = 60.0
CONNECT_S = 10.0  # TCP and TLS
MAX_ANSWER_BYTES = 64 << 20
MAX_MESSAGE_CHARACTERS = 2000
# Asked after 30 s of silence, and then every 10 s.
KEEP_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
KEEP_ALIVE += [
    (socket.IPPROTO_TCP, getattr(socket, name), seconds)
    for name, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
]

Body = Mapping[str, Any]
Response = httpx.Response


class Session:
    """A client of one router. Example::

    with Session(target) as session:
        session.json("POST", "/models/unload", body={"model": "coder"})
    """

    def __init__(self, target: Target, timeout: float | None = TIMEOUT_S) -> None:
        self.target = target
        self._timeout = timeout
        headers = {"user-agent": "llama-router", "accept": "application/json, */*"}
        if target.key:
            headers["x-api-key"] = target.key
        verify: ssl.SSLContext | bool = _trust(target) if target.url.startswith("https:") else False
        # A router that has gone without a word is noticed by the system, also while nothing is sent.
        options = [] if target.socket else KEEP_ALIVE
        transport = httpx.HTTPTransport(uds=target.socket, verify=verify, socket_options=options)
        is_direct = bool(target.socket) or target.is_local or not target.url.startswith("https:")
        if is_direct:
            self._client = httpx.Client(transport=transport, headers=headers, trust_env=False)
            return
        try:
            self._client = httpx.Client(verify=verify, headers=headers)
        except (ImportError, ValueError, httpx.InvalidURL) as exc:  # ImportError: of SOCKS
            hint = "for SOCKS, install llama-router[socks]" if isinstance(exc, ImportError) else "see HTTPS_PROXY"
            raise FlagError(f"the proxy that the environment names cannot be used: {hint}") from exc

    def __repr__(self) -> str:
        return f"<Session with {self.target}>"

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def json(
        self,
        method: str,
        path: str,
        *,
        body: Body | None = None,
        params: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """The JSON object of an answer. Raises one of `failures`."""
        with self.open(method, path, body=body, params=params, timeout=timeout or self._timeout) as answer:
            return self.object_of(answer)

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        body: Body | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        is_any_welcome: bool = False,
    ) -> Iterator[httpx.Response]:
        """An answer whose body is read as it comes. Raises one of `failures` for any status but 200 and 304, unless
        any is welcome; so does reading in this block. `timeout` is between two parts of the answer; None waits for
        ever."""
        if self.target.has_ended:
            raise NotReached(f"no router answers at {self.target} (the one that did has ended)")
        limits = httpx.Timeout(timeout, connect=CONNECT_S if timeout is None else min(timeout, CONNECT_S))
        url = self.target.url + path
        if params:
            url += "?" + "&".join(f"{name}={in_url(value)}" for name, value in params.items())
        content = None if body is None else json.dumps(body).encode()
        sent = {**({} if body is None else {"content-type": "application/json"}), **(headers or {})}
        try:
            with self._client.stream(
                method,
                url,
                content=content,
                headers=sent,
                timeout=limits,
                follow_redirects=False,
            ) as answer:
                if answer.status_code not in (200, 304) and not is_any_welcome:
                    raise self._error(answer)
                yield answer
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as exc:
            raise self._failure(exc) from exc

    def object_of(self, answer: httpx.Response) -> dict[str, Any]:
        """The JSON object of an answer, which is read whole. Raises NotReached for anything else."""
        parts, size = [], 0
        for part in answer.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise NotReached(f"what answers at {self.target} sends too much to be a llama-router")
        try:
            found = json.loads(b"".join(parts))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise NotReached(f"what answers at {self.target} is no llama-router")
        return found

    def _error(self, answer: httpx.Response) -> RouterError:
        if answer.is_redirect:
            where = visible(answer.headers.get("location", "elsewhere"))[:MAX_MESSAGE_CHARACTERS]
            return NotReached(f"{self.target} sends to {where}: name that address, if you trust it, with --url")
        try:
            message = message_of(self.object_of(answer))
        except NotReached:
            message = ""
        if not message:
            return NotReached(f"what answers at {self.target} is no llama-router (status {answer.status_code})")
        error = of_answer(answer.status_code, message, _seconds(answer.headers.get("retry-after")))
        return key_hint(self.target, error) if isinstance(error, KeyRefused) else error

    def _failure(self, exc: Exception) -> NotReached:
        where = str(self.target)
        if _is_about_trust(exc):
            return NotReached(
                f"the certificate of {where} is not trusted ({_reason(exc)}): name it with --cacert FILE, "
                "or trust any with --insecure"
            )
        if isinstance(exc, httpx.TimeoutException):
            return NotReached(f"{where} does not answer in time")
        if isinstance(exc, (httpx.ConnectError, OSError, httpx.InvalidURL)):
            return NotReached(
                f"no router answers at {where} ({_reason(exc)}). Start one with llama-router, or say where it is "
                "with --url"
            )
        return NotReached(f"the connection to {where} broke ({_reason(exc)})")


def in_url(name: str, safe: str = "") -> str:
    """A name as a part of a path or a query, in the bytes that it was typed with."""
    try:
        return quote(name, safe=safe, errors="surrogateescape")
    except UnicodeEncodeError:  # no bytes are this text
        return quote(valid(name), safe=safe)


def message_of(fields: Any) -> str:
    """The sentence of an error in any dialect, as one line; empty if there is none."""
    error = fields.get("error") if isinstance(fields, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return visible(message)[:MAX_MESSAGE_CHARACTERS] if isinstance(message, str) else ""


def ask_if_running(settings: Settings, method: str, path: str, model: str) -> tuple[int, dict[str, Any]] | None:
    """What the router that runs with these settings says: the status and a JSON object; None if no router answers."""
    try:
        with (
            Session(of_settings(settings)) as session,
            session.open(method, path, params={"model": model}, timeout=TIMEOUT_S, is_any_welcome=True) as answer,
        ):
            return answer.status_code, session.object_of(answer)
    except RouterError:
        return None


def _trust(target: Target) -> ssl.SSLContext:
    """Raises FlagError for a file that holds no certificate."""
    if not target.is_checked:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    path: Path | None = target.certificate or target.authorities
    if path is None:
        return httpx.create_ssl_context()
    try:
        context = ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as exc:
        raise FlagError(f"{path} cannot be read as certificates in PEM") from exc
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = target.certificate is None
    return context


def _is_about_trust(exc: BaseException | None) -> bool:
    seen = 0
    while exc is not None and seen < 8:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return True
        exc, seen = exc.__cause__ or exc.__context__, seen + 1
    return False


def _reason(exc: Exception) -> str:
    text = str(exc).partition("] ")[2] or str(exc) or type(exc).__name__
    return visible(text.partition(" (_ssl")[0])[:200].lower()


def _seconds(word: str | None) -> float | None:
    return float(word) if word and word.isdecimal() and len(word) < 8 else None
