"""PURE: whether a request is let in, decided from its head alone.

Four checks, one after the other:

1. Host. Without a key, a host name that is not ours is how a page reaches what its browser keeps from it (DNS
   rebinding).
2. Page. A browser says from which page a request comes.
3. Type. A browser sends forms and plain text for any page, but JSON only if that was allowed beforehand.
4. Key. `permissions` says which permission each route takes.

Called from `server.fast_path` for every request, before its body is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from router.access.hosts import PORTS, AllowedHosts, split_host
from router.access.keys import KEY_HEADERS, Headers, Keys
from router.access.origins import AllowedOrigins, split_origin
from router.access.permissions import ADMIN, FORM_PATHS, GENERATE, OPEN, READ, Permission, PermissionTable
from router.errors import Forbidden, InvalidRequest, RouterError, Unauthorized, UnsupportedType

METHODS = ("GET", "POST", "DELETE", "OPTIONS")
MAX_REMEMBERED_HOSTS = 256
MAX_QUOTED_CHARACTERS = 200  # of what a client sent, in an error text

_SITE = b"sec-fetch-site"
_BROWSER = frozenset((b"origin", _SITE))
_JSON = re.compile(rb"(?:application|text)/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_FORM = re.compile(rb"multipart/form-data\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_REFERER = re.compile(r"([a-z][a-z0-9+.-]*://[^/?#@]*)(?:[/?#].*)?", re.IGNORECASE | re.DOTALL)


class RequestFacts(NamedTuple):
    """What the guard looks at. `headers` have names in lower case.

    `is_local`: the request came over loopback.
    `is_old`: it is HTTP/1.0, which has no Host header.
    """

    method: str
    path: str
    query: bytes
    headers: Headers
    is_local: bool
    is_old: bool = False

    def all(self, name: bytes) -> list[bytes]:
        return [value for header, value in self.headers if header == name]

    def host(self) -> tuple[str, str] | None:
        """The name and port in the Host header; None if there is not exactly one valid Host."""
        hosts = self.all(b"host")
        return split_host(hosts[0].decode("latin-1")) if len(hosts) == 1 else None


class Verdict(NamedTuple):
    """`refusal` is why the request is not let in. `origin` may read the answer, whether it is a refusal or not."""

    refusal: RouterError | None = None
    origin: bytes | None = None


class Preflight(NamedTuple):
    """The answer to a page that asks beforehand what it may do: these methods."""

    methods: Sequence[str]


@dataclass(frozen=True, slots=True)
class Guard:
    """All four checks. Example::

    guard = Guard(table, AllowedHosts(), AllowedOrigins(["localhost"]), Keys())
    headers = [(b"host", b"localhost"), (b"origin", b"https://evil.example")]
    guard.check(RequestFacts("POST", "/models/load", b"", headers, is_local=True)).refusal  # Forbidden, 403
    """

    table: PermissionTable
    hosts: AllowedHosts
    origins: AllowedOrigins
    keys: Keys = field(default_factory=Keys)
    _accepted_hosts: set[bytes] = field(default_factory=set, init=False, repr=False)  # as they were written

    def is_surely_allowed(
        self, method: str, path: str, query: bytes, headers: Headers, named: Mapping[bytes, bytes], is_local: bool
    ) -> bool:
        """A quick look that lets in most requests of programs. `named` are the headers by name. False means nothing:
        then `check` decides."""
        if not _BROWSER.isdisjoint(named) or len(named) != len(headers) or (query and method != "POST"):
            return False
        if method != "POST" and self.table.required(method, path, query) > READ:
            return False  # such a GET is looked at more closely
        is_known_host = not is_local or named.get(b"host") in self._accepted_hosts
        if not self.keys:
            return is_known_host
        given = self.keys.permission_of([named[name] for name in KEY_HEADERS if name in named])
        if given is OPEN and (self.keys.has_api or not is_known_host):
            return False
        return given is ADMIN or self.table.required(method, path, query) <= GENERATE

    def is_allowed_with_any_body(self, facts: RequestFacts) -> bool:
        """Requests with this head are let in whatever the length of their body, so the decision may be remembered by
        the head. Requests of browsers are not: their type is checked only if there is a body."""
        return not is_from_browser(facts.headers) and self.check(facts).refusal is None

    def check(self, facts: RequestFacts) -> Verdict:
        """Whether a request is let in, and which origin may read the answer."""
        required = self.table.required(facts.method, facts.path, facts.query)
        given = self.keys.permission(facts.headers) if self.keys else OPEN
        # The client has a key, or will be refused for the lack of one. Either way its names need not be checked.
        has_key = not self.keys.is_open(READ) or given is not OPEN
        if refusal := self._check_host(facts, has_key):
            return Verdict(refusal)
        refusal, origin = self._check_page(facts, required, has_key)
        return Verdict(refusal or _check_type(facts) or self._check_key(required, given), origin)

    def preflight(self, facts: RequestFacts) -> Preflight | RouterError | None:
        """The answer to a preflight request, which takes no key; None if this is no preflight request."""
        methods, origins = facts.all(b"access-control-request-method"), facts.all(b"origin")
        if facts.method != "OPTIONS" or not methods or not origins:
            return None
        has_key = not self.keys.is_open(READ)
        if refusal := self._check_host(facts, has_key):
            return refusal
        wanted = methods[0].decode("latin-1")
        announced = facts._replace(method=wanted)
        required = self.table.required(wanted, facts.path, facts.query)
        refusal, origin = self._check_page(announced, required, has_key)
        if refusal or origin is None:
            return refusal or self._refuse_page(facts, origins[0].decode("latin-1"))
        existing = self.table.methods(facts.path)
        if len(methods) > 1 or wanted not in (existing or METHODS):
            return InvalidRequest(f"{wanted[:20]} is not allowed for {facts.path[:MAX_QUOTED_CHARACTERS]}.")
        if self._check_page(announced, ADMIN, has_key)[0]:
            return Preflight([method for method, takes in existing.items() if takes is not ADMIN] or METHODS)
        return Preflight([*METHODS, *(method for method in existing if method not in METHODS)])

    def _check_host(self, facts: RequestFacts, has_key: bool) -> RouterError | None:
        if has_key or not facts.is_local or self.hosts.is_any:
            return None
        written, host = facts.all(b"host"), facts.host()
        if not written and facts.is_old:
            return None
        if host and self.hosts.accept(host[0]):
            if len(self._accepted_hosts) >= MAX_REMEMBERED_HOSTS:
                self._accepted_hosts.clear()
            self._accepted_hosts.add(written[0])
            return None
        if host is None:
            return Forbidden("Send one Host header with a name or an address, such as 'Host: localhost'.")
        name = host[0][:MAX_QUOTED_CHARACTERS]
        return Forbidden(
            f"Without a key this router answers only to names of this machine, not to {name!r}: web pages use other "
            f"names to reach what is not theirs. If the name is yours, add it with --allowed-hosts {name}, or set a "
            "key with --api-key."
        )

    def _check_page(
        self, facts: RequestFacts, required: Permission, has_key: bool
    ) -> tuple[RouterError | None, bytes | None]:
        """Why the page may not make this request, and the origin that may read the answer."""
        origins, sites = facts.all(b"origin"), facts.all(_SITE)
        is_get, is_own_site = facts.method in ("GET", "HEAD"), set(sites) <= {b"same-origin", b"none"}
        if not origins and not sites:
            is_checked = is_get and required >= GENERATE
            return self._check_nameless_get(facts, required, has_key) if is_checked else None, None
        if len(origins) > 1:
            return Forbidden("A request has one Origin header; this one has several."), None
        if origins:
            origin = origins[0].decode("latin-1")
            is_own = is_own_site and self._is_own_page(facts, origin, has_key)
            allowed = ADMIN if is_own else self.origins.permission(origin)
            if allowed is not None:
                return None if required <= allowed else _refuse_desktop(origin), origins[0]
            return None if required is OPEN and is_get else self._refuse_page(facts, origin), None
        if required is OPEN and is_get:
            return None, None
        if sites == [b"same-origin"]:
            is_fine = required < GENERATE or has_key or self._has_accepted_host(facts)
        elif is_get and facts.all(b"sec-fetch-mode") == [b"navigate"]:
            # A link, or a typed address. Browsers call an address typed also if another page redirected to it.
            is_fine = required < GENERATE and (sites == [b"none"] or facts.all(b"sec-fetch-dest") == [b"document"])
        else:
            is_fine = sites == [b"none"]
        return None if is_fine else _refuse_nameless(), None

    def _check_nameless_get(self, facts: RequestFacts, required: Permission, has_key: bool) -> RouterError | None:
        """For a GET that has an effect. With a GET, browsers do not say from which page it comes. To an address without
        TLS they send nothing at all but their User-Agent."""
        if has_key or not any(agent.startswith(b"Mozilla/") for agent in facts.all(b"user-agent")):
            return None
        for referer in facts.all(b"referer"):
            page = _REFERER.fullmatch(referer.decode("latin-1"))
            if page is None:
                continue
            if self._is_own_page(facts, page[1], has_key) or required <= (self.origins.permission(page[1]) or OPEN):
                return None
        return _refuse_nameless()

    def _refuse_page(self, facts: RequestFacts, origin: str) -> RouterError:
        page, host = split_origin(origin), facts.host()
        if page and host and _is_same_host(page, host):  # our own page, under a name that is not known as ours
            name = host[0][:MAX_QUOTED_CHARACTERS]
            return Forbidden(
                f"This page uses the name {name!r}, which is not known as a name of this machine. If it is yours, add "
                f"it with --allowed-hosts {name}, or set a key with --api-key."
            )
        return _refuse_foreign(origin)

    def _is_own_page(self, facts: RequestFacts, origin: str, has_key: bool) -> bool:
        """The page came from this router, as far as its name can be trusted. TLS may end before the router."""
        page, host = split_origin(origin), facts.host()
        if page is None or host is None or not _is_same_host(page, host):
            return False
        return has_key or self.hosts.accept(host[0])

    def _has_accepted_host(self, facts: RequestFacts) -> bool:
        host = facts.host()
        return host is not None and self.hosts.accept(host[0])

    def _check_key(self, required: Permission, given: Permission) -> RouterError | None:
        if self.keys.is_open(required) or given >= required:
            return None
        if given is OPEN:
            return Unauthorized("Invalid API key. Send a valid one as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.")
        return Forbidden("This takes an admin key (--admin-key). The key that was sent allows reading and generating.")


def _is_same_host(page: tuple[str, str, str], host: tuple[str, str]) -> bool:
    scheme, name, port = page
    port_of_host = "" if host[1] == PORTS.get(scheme) else host[1]
    return scheme in PORTS and (name.strip("[]").removesuffix("."), port) == (host[0], port_of_host)


def _refuse_desktop(origin: str) -> Forbidden:
    quoted = origin[:MAX_QUOTED_CHARACTERS]
    return Forbidden(
        f"{quoted} may read and generate, but not change what runs here. --cors-origins {quoted} would allow it."
    )


def _refuse_foreign(origin: str) -> Forbidden:
    if origin == "null":
        return Forbidden(
            "A page without an origin (a file, a sandboxed frame: 'Origin: null') may not use this router. Serve it "
            "from an address and list that with --cors-origins. --cors-origins null would allow all such pages."
        )
    quoted = origin[:MAX_QUOTED_CHARACTERS]
    return Forbidden(f"Pages of {quoted} may not use this router. --cors-origins {quoted} would allow them.")


def _refuse_nameless() -> Forbidden:
    return Forbidden(
        "This request came from a link, or from a page that does not say its origin. Such requests may not use this "
        "router. Use a program, such as curl, or a page whose origin --cors-origins lists."
    )


def is_from_browser(headers: Headers) -> bool:
    """A browser sent it, as far as the headers say. With every request that can have an effect, browsers send Origin or
    Sec-Fetch-Site. Sec-Fetch-Mode alone is Node's."""
    return any(name in _BROWSER for name, _ in headers)


def _check_type(facts: RequestFacts) -> RouterError | None:
    """A browser sends forms and plain text for any page, but JSON only if that was allowed beforehand."""
    if facts.method in ("GET", "HEAD", "OPTIONS") or not is_from_browser(facts.headers):
        return None
    types = facts.all(b"content-type")
    is_empty = not facts.all(b"transfer-encoding") and set(facts.all(b"content-length")) <= {b"0"}
    if not types and is_empty:
        return None
    takes_form = facts.path in FORM_PATHS
    if types and all(_JSON.fullmatch(kind) or (takes_form and _FORM.fullmatch(kind)) for kind in types):
        return None
    form = ", or a form with 'Content-Type: multipart/form-data'" if takes_form else ""
    return UnsupportedType(f"From a browser this takes JSON with 'Content-Type: application/json'{form}.")
