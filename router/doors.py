"""Who may ask for what: hosts, origins, content types and keys, decided from the head of a request alone.

PURE. A request comes through three doors, one after the other. **Host**: where nobody needs a key, a name that is not
ours is how a page reaches a router behind the browser's back (DNS rebinding). **Origin**: what a browser sends says
which page asks. **Key**: `NEEDS` says what each route needs, and a route that it does not know keeps the application
from being made. Called from `app`, before the body is read, on both ways of a request.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl

from router.errors import Forbidden, InvalidRequest, RouterError, Unauthorized, UnsupportedType

Headers = Sequence[tuple[bytes, bytes]]  # names in lower case


class Need(IntEnum):
    """What a request does, and so which key opens it: each key opens what is below it too."""

    OPEN = 0  # nothing is told that anybody may not know
    READ = 1  # an API key
    GENERATE = 2  # an API key; has an effect: a model works, or is loaded
    ADMIN = 3  # an admin key; has an effect on others: what runs, what there is, what it is called


OPEN, READ, GENERATE, ADMIN = Need

# Every route there is, by its method and path. `reload` in the query of a GET makes it ADMIN, `autoload` GENERATE.
NEEDS: Mapping[str, Need] = {
    **dict.fromkeys(("GET /health", "GET /v1/health"), OPEN),
    # llama.cpp's router
    "GET /models": READ,
    "GET /v1/models": READ,
    "GET /v1/models/{name:path}": READ,
    "GET /models/{name:path}/settings": READ,
    "GET /models/estimate": READ,
    "GET /models/sse": READ,
    "GET /props": READ,
    "GET /metrics": READ,
    "GET /slots": READ,
    "GET /lora-adapters": READ,
    "GET /v1/stream": READ,
    "POST /v1/streams/lookup": READ,
    "DELETE /v1/stream": GENERATE,  # ends an answer that its client asked for
    "POST /models": ADMIN,
    "DELETE /models": ADMIN,
    "POST /models/load": ADMIN,
    "POST /models/unload": ADMIN,
    "POST /models/reload": ADMIN,
    "POST /props": ADMIN,
    "POST /slots/{slot}": ADMIN,  # saves, restores and erases what other conversations have computed
    "POST /lora-adapters": ADMIN,  # scales them for everybody
    # what a model answers
    **dict.fromkeys(
        (
            *("POST /v1/chat/completions", "POST /chat/completions", "POST /v1/chat/completions/control"),
            *("POST /v1/chat/completions/input_tokens", "POST /chat/completions/input_tokens"),
            *("POST /v1/completions", "POST /completions", "POST /completion", "POST /infill"),
            *("POST /v1/responses", "POST /responses"),
            *("POST /v1/responses/input_tokens", "POST /responses/input_tokens"),
            *("POST /v1/messages", "POST /v1/messages/count_tokens"),
            *("POST /v1/embeddings", "POST /embeddings", "POST /embedding"),
            *("POST /v1/audio/transcriptions", "POST /audio/transcriptions"),
            *("POST /v1/rerank", "POST /rerank", "POST /v1/reranking", "POST /reranking"),
            *("POST /tokenize", "POST /detokenize", "POST /apply-template", "POST /v1/systemone"),
        ),
        GENERATE,
    ),
    # Ollama's
    "GET /": READ,
    "GET /api/version": READ,
    "GET /api/tags": READ,
    "GET /api/ps": READ,
    "POST /api/show": READ,
    "HEAD /api/blobs/{digest}": READ,
    "POST /api/chat": GENERATE,  # a `keep_alive` of 0 unloads with any key, as its clients are used to
    "POST /api/generate": GENERATE,
    "POST /api/embed": GENERATE,
    "POST /api/embeddings": GENERATE,
    "POST /api/copy": ADMIN,
    "POST /api/create": ADMIN,
    "DELETE /api/delete": ADMIN,
    "POST /api/pull": ADMIN,
    "POST /api/blobs/{digest}": ADMIN,
}

# Where a form is the API.
MULTIPART = frozenset({"/v1/audio/transcriptions", "/audio/transcriptions"})


class RouteOf(NamedTuple):
    methods: Collection[str]
    path: str
    regex: re.Pattern[str]


class Table:
    """The needs of these routes, found the way the application finds routes: the first one that matches. Raises
    LookupError for a route without a row."""

    def __init__(self, routes: Iterable[RouteOf], needs: Mapping[str, Need] = NEEDS) -> None:
        self._rows: list[tuple[re.Pattern[str], dict[str, Need]]] = []
        for methods, path, regex in routes:
            named = {method for method in methods if method != "HEAD" or "GET" not in methods}
            if missing := [method for method in named if f"{method} {path}" not in needs]:
                raise LookupError(f"{missing[0]} {path} has no row in doors.NEEDS: say who may ask for it")
            row = {method: needs[f"{method} {path}"] for method in named}
            if "GET" in row:
                row["HEAD"] = row["GET"]
            self._rows.append((regex, row))
        # Most paths are found without the search. Not by the routes' own paths: an earlier pattern may match them.
        self._exact = {path: self._search(path) for _, path, _ in routes if "{" not in path}

    def methods(self, path: str) -> Mapping[str, Need]:
        """What may be asked for at a path."""
        found = self._exact.get(path)
        return self._search(path) if found is None else found

    def need(self, method: str, path: str, query: bytes) -> Need:
        """What is no route is told so to whoever may read."""
        methods = self.methods(path)
        need = methods.get(method)
        if need is None:
            return OPEN if OPEN in methods.values() else READ
        return max(need, _by_query(query)) if query and method in ("GET", "HEAD") else need

    def _search(self, path: str) -> dict[str, Need]:
        found: dict[str, Need] = {}
        for regex, row in self._rows:
            if regex.match(path):
                found = {**row, **found}
        return found


def _by_query(query: bytes) -> Need:
    try:
        said = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    except ValueError:
        return ADMIN
    if any(name == "reload" and value for name, value in said):
        return ADMIN
    return GENERATE if any(name == "autoload" and value not in ("", "0", "false") for name, value in said) else OPEN


# Hosts

_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[a-z0-9._-]+)(?::(\d{0,5}))?", re.ASCII)
# What containers and virtual machines call the machine that they run on. Nobody can own a name below .internal.
_MACHINE = re.compile(r"host\.[a-z0-9-]+\.internal|[a-z]+\.docker\.internal")
_PORTS = {"http": "80", "https": "443"}


def split_host(value: str) -> tuple[str, str] | None:
    """The name or address, and the port or nothing, of a `Host`; None where it is none."""
    found = _HOST.fullmatch(value.lower())
    if not found:
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
LOOPBACK = tuple(f"{scheme}://{name}:*" for scheme in _PORTS for name in ("localhost", "127.0.0.1", "[::1]"))
# Programs and extensions that a person installed: those that Ollama allows by default (OLLAMA_ORIGINS).
_PROGRAMS = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_EXTENSIONS = ("chrome-extension", "moz-extension", "safari-web-extension")
DESKTOP = tuple(f"{scheme}://*:*" for scheme in (*_PROGRAMS, *_EXTENSIONS))


def split_origin(value: str) -> tuple[str, str, str] | None:
    """Scheme, host and port of an origin, a port that goes without saying left out; None where it is none."""
    found = _ORIGIN.fullmatch(value.lower())
    if not found:
        return None
    scheme, host, port = found.groups(default="")
    if scheme in _PORTS and not host:
        return None
    return scheme, host, "" if port == _PORTS.get(scheme) else port


def origin_pattern(word: str) -> re.Pattern[str]:
    """What an origin may look like, written as `split_origin` tells it with `://` and `:` between. A `*` stands for a
    label of a name, at its front for any number of them; for all of a host; for a number of an address, at its end for
    several; for any port, or none. Raises ValueError."""
    found = _PATTERN.fullmatch(word.lower())
    if not found:
        raise ValueError(word)
    scheme, host, port = found.groups(default="")
    if not host and scheme in _PORTS:
        raise ValueError(word)
    told = re.escape(scheme).replace(r"\*", "[a-z0-9+.-]*"), _host_pattern(host)
    ports = r"\d*" if port == "*" else re.escape("" if port == _PORTS.get(scheme) else port).replace(r"\*", r"\d*")
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


# Keys


KEY_HEADERS = (b"authorization", b"x-api-key")


class Keys:
    """`api` opens what generates and reads, and the rest too where there are no `admin` keys; `admin` opens all."""

    def __init__(self, api: Iterable[str] = (), admin: Iterable[str] = ()) -> None:
        self._keys = [(key.encode(), GENERATE) for key in api] + [(key.encode(), ADMIN) for key in admin]
        self.has_api = any(most is GENERATE for _, most in self._keys)
        self.has_admin = any(most is ADMIN for _, most in self._keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def is_open(self, need: Need) -> bool:
        """Whether it takes no key."""
        return need is OPEN or not (self.has_api or (self.has_admin and need is ADMIN))

    def opened(self, headers: Headers) -> Need:
        """The most that the keys in these headers open. A header that comes twice says nothing: whoever stands between
        may have taken the other one."""
        return self.opened_by([value for name in KEY_HEADERS if (value := _only(headers, name)) is not None])

    def opened_by(self, given: Iterable[bytes]) -> Need:
        """The most that the keys in these values of headers open."""
        most = OPEN
        for value in given:
            token = _token(value)
            for key, one in self._keys:
                # Every key is compared, and each in constant time: the answer's timing tells nothing about them.
                if hmac.compare_digest(token, key) and one > most:
                    most = one
        return ADMIN if most is GENERATE and not self.has_admin else most


def _only(headers: Headers, name: bytes) -> bytes | None:
    values = [value for one, value in headers if one == name]
    return values[0] if len(values) == 1 else None


def _token(header: bytes) -> bytes:
    """The key that a header holds. llama-server insists on `Bearer` in neither of the two."""
    scheme, _, token = header.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else header


# The doors

_SITE = b"sec-fetch-site"
_BROWSER = frozenset((b"origin", _SITE))
_JSON = re.compile(rb"(?:application|text)/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_FORM = re.compile(rb"multipart/form-data\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_REFERER = re.compile(r"([a-z][a-z0-9+.-]*://[^/?#@]*)(?:[/?#].*)?", re.IGNORECASE | re.DOTALL)
_MOST_HOSTS = 256  # that are remembered


class Head(NamedTuple):
    """What is decided by. `is_local`: it came over loopback. `is_old`: HTTP/1.0, which knows no Host."""

    method: str
    path: str
    query: bytes
    headers: Headers
    is_local: bool
    is_old: bool = False

    def all(self, name: bytes) -> list[bytes]:
        return [value for one, value in self.headers if one == name]

    def host(self) -> tuple[str, str] | None:
        """As `split_host` tells it; None where there is not exactly one."""
        given = self.all(b"host")
        return split_host(given[0].decode("latin-1")) if len(given) == 1 else None


class Verdict(NamedTuple):
    """`origin` may read the answer, whether it is the `refusal` or not."""

    refusal: RouterError | None = None
    origin: bytes | None = None


ADMITTED = Verdict()


class Preflight(NamedTuple):
    """What a page that asks beforehand is told, beside its origin."""

    methods: Sequence[str]


@dataclass(frozen=True, slots=True)
class Doors:
    """A plain client is let through by one look::

    doors = Doors(table, Hosts(), Origins(["localhost"]), Keys())
    doors.ask(Head("POST", "/models/load", b"", [(b"origin", b"https://a.b"), ...], is_local=True)).refusal
    # Forbidden: 403
    """

    table: Table
    hosts: Hosts
    origins: Origins
    keys: Keys = field(default_factory=Keys)
    _known: set[bytes] = field(default_factory=set, init=False)  # hosts that were accepted, as they were written

    def is_plain(
        self, method: str, path: str, query: bytes, headers: Headers, named: Mapping[bytes, bytes], is_local: bool
    ) -> bool:
        """Whether nothing stands in the way of a request that no browser sent; `named` are its headers by name. A False
        says nothing: `ask` does."""
        if not _BROWSER.isdisjoint(named) or len(named) != len(headers) or (query and method != "POST"):
            return False
        is_named = not is_local or named.get(b"host") in self._known
        if not self.keys:
            return is_named
        opened = self.keys.opened_by([named[name] for name in KEY_HEADERS if name in named])
        if opened is OPEN and (self.keys.has_api or not is_named):
            return False
        return opened is ADMIN or self.table.need(method, path, query) <= GENERATE

    def ask(self, head: Head) -> Verdict:
        """Whether a request is let in, and who may read the answer."""
        need = self.table.need(head.method, head.path, head.query)
        opened = self.keys.opened(head.headers) if self.keys else OPEN
        is_known = not self.keys.is_open(READ) or opened is not OPEN  # whoever asks has a key, or will be refused
        if refusal := self._host(head, is_known):
            return Verdict(refusal)
        refusal, origin = self._page(head, need, is_known)
        return Verdict(refusal or _type(head) or self._key(need, opened), origin)

    def preflight(self, head: Head) -> Preflight | RouterError | None:
        """The answer to a page that asks what it may, which needs no key; None where that is not asked."""
        methods, origins = head.all(b"access-control-request-method"), head.all(b"origin")
        if head.method != "OPTIONS" or not methods or not origins:
            return None
        is_known = not self.keys.is_open(READ)
        if refusal := self._host(head, is_known):
            return refusal
        wanted = methods[0].decode("latin-1")
        asked = head._replace(method=wanted)
        need = self.table.need(wanted, head.path, head.query)
        refusal, origin = self._page(asked, need, is_known)
        if refusal or origin is None:
            return refusal or self._refused(head, origins[0].decode("latin-1"))
        there = self.table.methods(head.path)
        if len(methods) > 1 or wanted not in (there or METHODS):
            return InvalidRequest(f"{wanted[:20]} is not allowed for {head.path[:200]}.")
        if self._page(asked, ADMIN, is_known)[0]:
            return Preflight([method for method, one in there.items() if one is not ADMIN] or METHODS)
        return Preflight([*METHODS, *(method for method in there if method not in METHODS)])

    def _host(self, head: Head, is_known: bool) -> RouterError | None:
        if is_known or not head.is_local or self.hosts.is_any:
            return None
        given, found = head.all(b"host"), head.host()
        if not given and head.is_old:
            return None
        if found and self.hosts.accept(found[0]):
            if len(self._known) >= _MOST_HOSTS:
                self._known.clear()
            self._known.add(given[0])
            return None
        if found is None:
            return Forbidden("Say in one Host header which name or address was asked, such as 'Host: localhost'.")
        return Forbidden(
            f"Without a key this router answers to names of this machine alone, not to {found[0][:200]!r}: that is how "
            f"web pages reach what is not theirs. If the name is yours, add it with --allowed-hosts {found[0][:200]}, "
            "or set a key with --api-key."
        )

    def _page(self, head: Head, need: Need, is_known: bool) -> tuple[RouterError | None, bytes | None]:
        """Why the page that asks may not, and the origin that may read the answer."""
        origins, sites = head.all(b"origin"), head.all(_SITE)
        is_get, is_own = head.method in ("GET", "HEAD"), set(sites) <= {b"same-origin", b"none"}
        if not origins and not sites:
            return self._unsaid(head, need, is_known) if is_get and need >= GENERATE else None, None
        if len(origins) > 1:
            return Forbidden("A request has one Origin header; this one has several."), None
        if origins:
            origin = origins[0].decode("latin-1")
            most = ADMIN if is_own and self._is_own(head, origin, is_known) else self.origins.most(origin)
            if most is not None:
                return None if need <= most else _foreign(origin, is_desktop=True), origins[0]
            return None if need is OPEN and is_get else self._refused(head, origin), None
        if need is OPEN and is_get:
            return None, None
        if sites == [b"same-origin"]:
            is_fine = need < GENERATE or is_known or self._has_accepted(head)
        elif is_get and head.all(b"sec-fetch-mode") == [b"navigate"]:
            # A link, or what was typed. That counts as typed also where it was sent on from another page.
            is_fine = need < GENERATE and (sites == [b"none"] or head.all(b"sec-fetch-dest") == [b"document"])
        else:
            is_fine = sites == [b"none"]
        return None if is_fine else _unnamed(), None

    def _unsaid(self, head: Head, need: Need, is_known: bool) -> RouterError | None:
        """Of a GET with effects: browsers do not say which page asks, and nothing at all to an address without TLS but
        that they are browsers."""
        if is_known or not any(agent.startswith(b"Mozilla/") for agent in head.all(b"user-agent")):
            return None
        for referer in head.all(b"referer"):
            page = _REFERER.fullmatch(referer.decode("latin-1"))
            if page and (self._is_own(head, page[1], is_known) or need <= (self.origins.most(page[1]) or OPEN)):
                return None
        return _unnamed()

    def _refused(self, head: Head, origin: str) -> RouterError:
        page, host = split_origin(origin), head.host()
        if page and host and _same(page, host):  # our own page, by a name that is not known to be ours
            return Forbidden(
                f"This page asks under the name {host[0][:200]!r}, which is not known as this machine's: if it is "
                f"yours, add it with --allowed-hosts {host[0][:200]}, or set a key with --api-key."
            )
        return _foreign(origin)

    def _is_own(self, head: Head, origin: str, is_known: bool) -> bool:
        """Whether the page came from this router, as far as the name can be trusted. TLS may end before it."""
        page, host = split_origin(origin), head.host()
        if page is None or host is None or not _same(page, host):
            return False
        return is_known or self.hosts.accept(host[0])

    def _has_accepted(self, head: Head) -> bool:
        host = head.host()
        return host is not None and self.hosts.accept(host[0])

    def _key(self, need: Need, opened: Need) -> RouterError | None:
        if self.keys.is_open(need) or opened >= need:
            return None
        if opened is OPEN:
            return Unauthorized("Invalid API key. Send a valid one as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.")
        return Forbidden("This takes an admin key (--admin-key); the one that was sent generates and reads only.")


METHODS = ("GET", "POST", "DELETE", "OPTIONS")


def _same(page: tuple[str, str, str], host: tuple[str, str]) -> bool:
    scheme, name, port = page
    port_of_host = "" if host[1] == _PORTS.get(scheme) else host[1]
    return scheme in _PORTS and (name.strip("[]").removesuffix("."), port) == (host[0], port_of_host)


def _foreign(origin: str, *, is_desktop: bool = False) -> Forbidden:
    told = origin[:200]
    if is_desktop:
        return Forbidden(
            f"{told} may generate and read, but not change what runs here; --cors-origins {told} would let it."
        )
    if origin == "null":
        told = "null"
        return Forbidden(
            "A page without an origin (a file, a sandboxed frame: 'Origin: null') may not use this router. Serve it "
            "from an address and list that with --cors-origins; --cors-origins null would let all such pages in."
        )
    return Forbidden(f"Pages of {told} may not use this router; --cors-origins {told} would let them.")


def _unnamed() -> Forbidden:
    return Forbidden(
        "This came from a page that does not say whose it is, or from a link, and those may not use this router. "
        "Ask with a program, such as curl, or from a page whose origin --cors-origins lists."
    )


def _type(head: Head) -> RouterError | None:
    """A browser sends a form or plain text for any page that likes it to, but JSON only where that was allowed."""
    if head.method in ("GET", "HEAD", "OPTIONS") or not any(name in _BROWSER for name, _ in head.headers):
        return None
    types = head.all(b"content-type")
    is_empty = not head.all(b"transfer-encoding") and set(head.all(b"content-length")) <= {b"0"}
    if not types and is_empty:
        return None
    fits = [_JSON.fullmatch(kind) or (head.path in MULTIPART and _FORM.fullmatch(kind)) for kind in types]
    if types and all(fits):
        return None
    form = ", or a form with 'Content-Type: multipart/form-data'" if head.path in MULTIPART else ""
    return UnsupportedType(f"From a browser this takes JSON with 'Content-Type: application/json'{form}.")
