"""Which router a command means: its address, its key, and whom to trust.

Who says it, the first that does: `--url`, or `--host` and `--port`; their variables, or the file of `--config`; the run
folder of a router that this user runs; else 127.0.0.1:8080. Variables are those that the router reads, so a
router and a command with the same environment meet. If they leave something open, such as the port of a router whose
flags say it, the run folder fills that in: a router that runs there with these hosts and this port is meant.

The one idea: a key goes only where it belongs. What the user gives by flag or variable is for the address that he
gives. A key in a file that the router names is for that router alone. And an address that a run folder says is good for
as long as its router lives: later anybody may listen there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from router import key_file, settings
from router.access.hosts import is_loopback
from router.client.failures import KeyRefused, NotReached
from router.client.options import SHARED, Words
from router.engine.flags import FlagTable
from router.errors import FlagError
from router.files import expanded
from router.node.run_roots import run_roots
from router.node.whereabouts import Whereabouts, find_all
from router.options import Option
from router.redaction import without_credentials
from router.server.listeners import is_path
from router.settings import Settings

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "*": "127.0.0.1"}
CERTIFICATE = "--ssl-cert-file"
_HOST = re.compile(r"[\w.:%\[\]-]+")
_NAMES = frozenset(own.name for own in SHARED) - {CERTIFICATE}
_KEYS = ("--api-key", "--api-key-file", "--admin-key", "--admin-key-file")
_OPTIONS: tuple[Option, ...] = tuple(option for option in settings.OPTIONS if option.name in _NAMES)


@dataclass(frozen=True, slots=True)
class Target:
    """A router to ask.

    `url` has no slash at its end; the prefix is part of it.
    `socket` is the path of a unix socket, which `url` then does not name.
    `key` is sent with every request; empty for none.
    `certificate` is the router's own: it alone is trusted, whatever its names. `authorities` are trusted instead of the
    usual ones. `is_checked` is False if any certificate is.
    `router` is the one whose run folder says the address; None if something else says it.
    """

    url: str
    socket: str | None = None
    key: str = field(default="", repr=False)
    certificate: Path | None = None
    authorities: Path | None = None
    is_checked: bool = True
    router: Whereabouts | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.socket or self.url

    @property
    def has_own(self) -> bool:
        """Whether it says whom to trust; else the usual authorities are."""
        return self.certificate is not None or self.authorities is not None or not self.is_checked

    @property
    def has_ended(self) -> bool:
        """The router that is meant runs no more: it, or another one, is to be found anew."""
        return self.router is not None and not self.router.is_alive()

    @property
    def is_local(self) -> bool:
        """Whether nothing but this machine can be between here and there."""
        host = urlsplit(self.url).hostname or ""
        return bool(self.socket) or host == "localhost" or is_loopback(host)


def find(words: Words, environ: Mapping[str, str]) -> Target:
    """The router that a command line and its environment mean. Raises FlagError, and NotReached if several run."""
    mine = [word for arg in words.args if arg.flag.name in _NAMES for word in (arg.flag.name, *arg.values)]
    known = {name: environ[name] for option in _OPTIONS for name in option.variables if name in environ}
    config = settings.read_config(mine, known)
    found, _ = settings.parse(mine, known, FlagTable([]), config)
    trust, flagged = _trust(words), {name for name in ("--host", "--port") if words.value(name) is not None}
    url = words.value("--url")
    if (url is not None or flagged) and words.value("--config") is None and not _is_given(_KEYS, words, known):
        found = replace(found, api_key=(), admin_key=())  # a file that a variable names: its keys are for its router
    if url is not None:
        if flagged:
            raise FlagError(f"--url says where the router is; leave {min(flagged)} out")
        prefix = found.api_prefix if words.value("--api-prefix") is not None else ""
        return replace(trust, url=_checked_url(url).rstrip("/") + prefix, key=_key(found))
    given = {name for name in ("--host", "--port") if _is_given([name], words, known) or config.get(name)}
    running = [] if flagged else _matching(find_all(_roots(found, environ)), found, given)
    places = dict.fromkeys(str(_target_of(each)) for each in running)
    if len(places) > 1:  # routers that share a port, as one takes over from the other, are one place
        raise NotReached(f"several routers run here: {', '.join(places)}. Say which with --url, or --host PATH.sock")
    if running:
        return _with_keys(_target_of(running[0]), running[0], trust, found)
    if not trust.has_own:
        named = next((environ[name] for name in (_certificate_option().env,) if environ.get(name)), None)
        trust = replace(trust, certificate=expanded(named) if named else found.ssl_cert_file)
    is_secure = trust.has_own or trust.certificate is not None
    target = of_settings(replace(found, ssl_cert_file=trust.certificate), is_secure=is_secure)
    return replace(trust, url=target.url, socket=target.socket, key=target.key)


def of_settings(found: Settings, *, is_secure: bool | None = None) -> Target:
    """The router that was started with these settings."""
    host, key, certificate = found.host[0], _key(found), found.ssl_cert_file
    scheme = "https" if (certificate is not None if is_secure is None else is_secure) else "http"
    if is_path(host):
        return Target(f"{scheme}://localhost{found.api_prefix}", host, key, certificate)
    if not _HOST.fullmatch(host):
        shown = without_credentials(host)[:80]
        raise FlagError(f"--host takes a name or an address, not {shown!r}; --url takes a whole one")
    return Target(f"{scheme}://{_reachable(found.host)}:{found.port}{found.api_prefix}", None, key, certificate)


def _key(found: Settings) -> str:
    return (*found.admin_key, *found.api_key, "")[0]


def _reachable(hosts: Sequence[str]) -> str:
    """Where the first of these hosts is reached from here. A lone `::` takes IPv4 too."""
    host = hosts[0].strip("[]")
    if host == "::" and len(hosts) == 1:
        return "127.0.0.1"
    return ANYWHERE.get(host) or (f"[{host}]" if ":" in host else host)


def _trust(words: Words) -> Target:
    """A target without an address: whom to trust there."""
    names = ("--cacert", CERTIFICATE, "--insecure")
    given = [name for name in names if words.value(name) is not None or words.has(name)]
    if len(given) > 1:
        raise FlagError(f"{given[0]} and {given[1]} say two things about whom to trust; leave one out")
    files = {name: expanded(value) for name in given if (value := words.value(name)) is not None}
    for name, path in files.items():
        if not path.is_file():
            raise FlagError(f"{name} {path}: there is no such file")
    return Target("", None, "", files.get(CERTIFICATE), files.get("--cacert"), "--insecure" not in given)


def _certificate_option() -> Option:
    return next(option for option in settings.OPTIONS if option.name == CERTIFICATE)


def _checked_url(url: str) -> str:
    """Raises FlagError for what is no address of a router."""
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right or not url.isprintable() or " " in url:
        raise FlagError(f"--url takes an address such as http://127.0.0.1:8080, not {without_credentials(url)[:80]!r}")
    if parts.username is not None or parts.password is not None:
        raise FlagError("--url takes no user and no password: give the key with LLAMA_API_KEY or --api-key-file")
    if parts.query or parts.fragment:
        raise FlagError("--url takes an address without ? and #")
    return url


def _is_given(names: Sequence[str], words: Words, known: Mapping[str, str]) -> bool:
    """Whether one of these options is set by a flag or a variable."""
    options = [option for option in _OPTIONS if option.name in names]
    return any(words.value(o.name) is not None or any(map(known.get, o.variables)) for o in options)


def _roots(found: Settings, environ: Mapping[str, str]) -> list[Path]:
    return [found.run_dir.absolute()] if found.run_dir else run_roots(environ)


def _matching(running: Sequence[Whereabouts], found: Settings, given: set[str]) -> list[Whereabouts]:
    """Those that have the hosts and the port that were given; all of them if none was."""
    if "--host" in given:
        running = [each for each in running if set(each.hosts) == set(found.host)]
    if "--port" in given and found.port:
        running = [each for each in running if found.port in map(_port_of, each.urls)]
    return list(running)


def _port_of(url: str) -> int | None:
    return None if url.startswith("unix:") else urlsplit(url).port


def _socket_of(each: Whereabouts) -> str | None:
    """A unix socket is preferred: only its users reach it, and nothing is between."""
    paths = [url.removeprefix("unix:") for url in each.urls if url.startswith("unix:")]
    return next((path for path in paths if path.startswith("/")), None)


def _target_of(each: Whereabouts) -> Target:
    certificate = Path(each.certificate) if each.certificate else None
    if path := _socket_of(each):
        return Target(f"{'https' if certificate else 'http'}://localhost{each.prefix}", path, "", certificate)
    urls = [url for url in each.urls if not url.startswith("unix:")]
    if not urls:
        raise NotReached(f"the router that runs here listens on {', '.join(each.urls)} alone; name it with --host")
    parts = urlsplit(urls[0])
    host = parts.hostname or ""
    place = ANYWHERE.get(host) or (f"[{host}]" if ":" in host else host)
    return Target(f"{parts.scheme}://{place}:{parts.port}{each.prefix}", None, "", certificate)


def _with_keys(target: Target, each: Whereabouts, trust: Target, found: Settings) -> Target:
    """The key that the user gives, else the first of the files that the router itself reads."""
    key = _key(found)
    for path in each.key_files if not key else ():
        try:
            key = key_file.read(Path(path), "the router's key file")[0]
            break
        except FlagError:
            continue  # it may have gone meanwhile, or be for another user
    whom = trust if trust.has_own else target
    return replace(
        target,
        key=key,
        certificate=whom.certificate,
        authorities=whom.authorities,
        is_checked=whom.is_checked,
        router=each,
    )


def key_hint(target: Target, refusal: KeyRefused) -> KeyRefused:
    """The refusal, with what the user can do."""
    if target.key:
        return refusal
    return KeyRefused(f"{refusal.message.rstrip('. ')}. Give a key with LLAMA_API_KEY or --api-key-file.")
