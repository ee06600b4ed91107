"""The names that the router answers to. B-T1"""

from __future__ import annotations

import socket

import pytest

from router import settings
from router.access.guard import RequestFacts
from router.access.origins import AllowedOrigins
from router.engine.flags import default_table
from router.errors import FlagError
from router.proxy.head import parse_head, with_host_of
from router.server.fast_path import came_over_loopback
from tests.access.guards import CHAT, facts, guard, status
from tests.conftest import Starter
from tests.security.asking import ask

HOSTS = {
    "localhost": True,
    "localhost:8080": True,
    "LOCALHOST:8080": True,
    "localhost.": True,
    "app.localhost:1": True,
    "127.0.0.1:8080": True,
    "127.8.9.1": True,
    "127.1": True,
    "[::1]:8080": True,
    "[::ffff:127.0.0.1]": True,
    "0.0.0.0:8080": True,
    "192.168.1.7:8080": True,
    "box": True,
    "BOX.local:8080": True,
    "host.docker.internal:8080": True,
    "host.containers.internal": True,
    "allowed.example": True,
    "a.below.example:1": True,
    "below.example": False,
    "evil": False,
    "evil.example": False,
    "evil.example:8080": False,
    "evil.example.": False,
    "localhost.evil.example": False,
    "127.0.0.1.evil.example": False,
    "evil-localhost": False,
    "xbelow.example": False,
    "box.evil.example": False,
    "host.docker.internal.evil.example": False,
    "a.b.internal": False,
    "user@localhost": False,
    "localhost@evil.example": False,
    "localhost/": False,
    "localhost#": False,
    "localhost:8080:8080": False,
    "localhost:x": False,
    "localhost,evil.example": False,
    "local host": False,
    "[::1": False,
    "[::1].evil.example": False,
    "::1": False,
    ".": False,
    "": False,
    "127.0.0.1.": True,
    "löcalhost": False,
}


@pytest.mark.parametrize("host", HOSTS)
def test_a_loopback_listener_without_keys_answers_to_its_names(host: str) -> None:
    found = guard(allowed=("allowed.example", "*.below.example"))
    for method, target in (("GET", "/"), ("GET", "/health"), ("GET", "/models"), ("POST", CHAT), ("POST", "/nowhere")):
        path, _, _ = target.partition("?")
        asked = RequestFacts(method, path, b"", [(b"host", host.encode("latin-1"))], True)
        assert status(found, asked) == (200 if HOSTS[host] else 403), (method, target)
        assert status(found, asked._replace(is_local=False)) == 200  # a network has more names than we know
        assert status(guard(allowed=("*",)), asked) == 200
        assert status(guard(keys=["k"]), asked) in (200, 401)  # a page has no key
    assert "--allowed-hosts evil.example" in str(found.check(facts(host="evil.example:1")).refusal)


def test_missing_or_repeated_host_is_refused() -> None:
    one = [(b"host", b"localhost")]
    assert status(guard(), facts(host="")) == 403
    assert status(guard(), facts(host="")._replace(is_old=True)) == 200  # HTTP/1.0 knows none
    for other in (b"evil.example", b"localhost", b""):
        assert status(guard(), facts()._replace(headers=[*one, (b"host", other)])) == 403
    for known in (False, True):  # it is remembered what was accepted
        found = guard()
        assert known is False or status(found, facts()) == 200
        assert status(found, facts(host="evil.example")) == 403


def test_the_host_of_a_whole_address_counts() -> None:
    for url, hosts, expected in (
        (b"/x", [b"localhost"], 200),
        (b"http://localhost/x", [b"LOCALHOST"], 200),
        (b"http://LocalHost:80/x", [], 200),
        (b"http://evil/x", [], 403),
        (b"http://evil/x", [b"localhost"], 403),
        (b"http://localhost/x", [b"evil"], 403),
        (b"HTTP://evil?x", [b"localhost"], 403),
        (b"http://localhost@evil/x", [b"localhost"], 403),
        (b"http://evil#localhost/", [b"localhost"], 403),
    ):
        headers = with_host_of(url, [(b"host", host) for host in hosts])
        assert status(guard(), RequestFacts("POST", "/x", b"", headers, True)) == expected, (url, hosts)
    found = parse_head(b"POST http://evil/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n", 1)
    assert found
    assert [value for name, value in found[0].headers if name == b"host"] == [b"localhost", b"evil"]


@pytest.mark.parametrize(
    ("server", "is_local"),
    [
        (("127.0.0.1", 8080), True),
        (("127.9.9.9", 8080), True),
        (("::1", 8080), True),
        (("::ffff:127.0.0.1", 8080), True),
        (("192.168.1.7", 8080), False),
        (("::ffff:192.168.1.7", 8080), False),
        (("2001:db8::1", 8080), False),
        (("/run/r.sock", None), False),
        (None, True),  # not known
    ],
)
def test_came_over_loopback(server: tuple[str, int | None] | None, is_local: bool) -> None:
    assert came_over_loopback(server) is is_local


def test_overlong_host_or_origin_is_refused() -> None:
    for host in ("a" * 300 + ".localhost", "9" * 60_000):
        assert status(guard(), facts(host=host)) == 403
    assert AllowedOrigins(["*"]).permission("https://" + "a" * 400) is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a.example, *.B.example:80,*", ("a.example", "*.b.example", "*")),
        ("[::1]:80,fe80::1", ("::1", "fe80::1")),
        ("https://a.example", None),
        ("a/b", None),
        ("a b", None),
        ("*.", None),
        ("a*.example", None),
    ],
)
def test_allowed_hosts(word: str, expected: tuple[str, ...] | None) -> None:
    argv = ["--allowed-hosts", word]
    if expected is None:
        with pytest.raises(FlagError, match="--allowed-hosts takes names"):
            settings.parse(argv, {}, default_table())
    else:
        assert settings.parse(argv, {}, default_table())[0].allowed_hosts == expected


def test_the_names_of_this_machine(routers: Starter, fake: str) -> None:  # B-T1
    router = routers("--engine", fake)
    name = socket.gethostname()
    for host in (name, name.upper(), f"{name.partition('.')[0]}.local:1"):
        assert ask(router.url, "GET", "/health", host=host).status == 200
    assert ask(router.url, "GET", "/health", host=f"{name}.evil.example").status == 403
