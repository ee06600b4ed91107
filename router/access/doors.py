"""Who may ask for what, decided from the head of a request alone.

PURE. There are four doors, one behind the other. Host: where nobody needs a key, a name that is not ours is how a page
reaches what its browser keeps from it (DNS rebinding). Page: a browser says whose page asks. Type: a browser sends
forms and plain text for any page, but JSON only where that was allowed. Key: `needs` says what each route needs. Called
from `app`, before the body is read, on both ways of a request.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from router.access.needs import ADMIN, GENERATE, MULTIPART, OPEN, READ, Need, Table
from router.access.origins import PORTS, Hosts, Origins, split_host, split_origin
from router.errors import Forbidden, InvalidRequest, RouterError, Unauthorized, UnsupportedType

Headers = Sequence[tuple[bytes, bytes]]  # names in lower case

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
_MOST_KNOWN = 256  # hosts that are remembered


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
    """All of them. Example::

    doors = Doors(table, Hosts(), Origins(["localhost"]), Keys())
    headers = [(b"host", b"localhost"), (b"origin", b"https://evil.example")]
    doors.ask(Head("POST", "/models/load", b"", headers, is_local=True)).refusal  # Forbidden, 403
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

    def is_always_in(self, head: Head) -> bool:
        """Whether requests of this head are let in whatever the length of their body, which is no part of the head
        where heads are remembered. Those of browsers may not be."""
        return not is_of_browser(head.headers) and self.ask(head).refusal is None

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
            if len(self._known) >= _MOST_KNOWN:
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
    port_of_host = "" if host[1] == PORTS.get(scheme) else host[1]
    return scheme in PORTS and (name.strip("[]").removesuffix("."), port) == (host[0], port_of_host)


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


def is_of_browser(headers: Headers) -> bool:
    """As far as it says so: every browser tells the origin, or the site, of what could have an effect. `Sec-Fetch-Mode`
    alone is Node's."""
    return any(name in _BROWSER for name, _ in headers)


def _type(head: Head) -> RouterError | None:
    """A browser sends a form or plain text for any page that likes it to, but JSON only where that was allowed."""
    if head.method in ("GET", "HEAD", "OPTIONS") or not is_of_browser(head.headers):
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
