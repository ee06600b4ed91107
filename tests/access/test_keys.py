"""Two kinds of keys. B-T3"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from router import settings
from router.access.guard import Guard, RequestFacts
from router.access.hosts import AllowedHosts
from router.access.keys import Keys
from router.access.origins import AllowedOrigins
from router.access.permissions import ADMIN, GENERATE, OPEN
from router.engine.flags import default_table
from router.errors import FlagError
from router.settings import Settings
from tests.access.guards import CHAT, TABLE
from tests.access.test_permissions import every_route
from tests.conftest import Starter
from tests.routers import Router, start
from tests.security.asking import JSON, Pairs, ask, question

FLAGS = default_table()


def with_keys(api: Sequence[str], admin: Sequence[str]) -> Guard:
    return Guard(TABLE, AllowedHosts(), AllowedOrigins(["localhost"]), Keys(api, admin))


KEYS: dict[str, Pairs] = {
    "none": [],
    "api": [("authorization", "Bearer user")],
    "api in x-api-key": [("x-api-key", "user")],
    "admin": [("authorization", "Bearer boss")],
    "admin in x-api-key": [("x-api-key", "boss")],
    "both": [("authorization", "Bearer user"), ("x-api-key", "boss")],
    "wrong": [("authorization", "Bearer nobody")],
    "empty": [("authorization", ""), ("x-api-key", "")],
    "part": [("authorization", "Bearer bos"), ("x-api-key", "use")],
    "list": [("authorization", "Bearer user,boss")],
    "twice": [("authorization", "Bearer boss"), ("authorization", "Bearer boss")],
    "twice, one wrong": [("authorization", "Bearer nobody"), ("authorization", "Bearer boss")],
    "twice, one right": [("x-api-key", "boss"), ("x-api-key", "nobody")],
    "joined": [("authorization", "Bearer boss, Bearer boss")],
    "one hidden": [("authorization", "Basic x"), ("x-api-key", "boss")],
}


OPENS = {"api": GENERATE, "api in x-api-key": GENERATE} | dict.fromkeys(
    ("admin", "admin in x-api-key", "both", "one hidden"), ADMIN
)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("is_local", [True, False])
def test_what_keys_open(name: str, is_local: bool) -> None:  # B-T3
    """Every route and method, by each kind of keys that there may be; also by the look that most requests get."""
    headers = [(b"host", b"localhost"), *((one.encode(), value.encode()) for one, value in KEYS[name])]
    opens = OPENS.get(name, OPEN)
    for api, admin in (((), ()), (("user",), ()), ((), ("boss",)), (("other", "user"), ("boss", "second"))):
        found = with_keys(api, admin)
        for method, _, target in every_route():
            need = found.table.required(method, target, b"")
            if need is OPEN or not (api or admin):
                expected = 200
            elif api and admin:
                expected = 200 if opens >= need else 403 if opens is GENERATE else 401
            elif api:  # the admin's key is unknown here; theirs opens everything
                expected = 200 if opens is GENERATE or name == "both" else 401
            else:
                expected = 200 if need < ADMIN or opens is ADMIN else 401
            refusal = found.check(RequestFacts(method, target, b"", headers, is_local)).refusal
            assert (refusal.status if refusal else 200) == expected, (api, admin, method, target)
            plain = found.is_surely_allowed(method, target, b"", headers, dict(headers), is_local)
            assert not plain or expected == 200


def test_quick_check_lets_in_ordinary_requests() -> None:
    headers = [(b"host", b"localhost"), (b"x-api-key", b"k")]
    for api, admin in (((), ()), (("k",), ()), ((), ("a",)), (("k",), ("a",)), (("a",), ("k",))):
        found = with_keys(api, admin)
        assert found.check(RequestFacts("POST", CHAT, b"", headers, True)).refusal is None
        assert found.is_surely_allowed("POST", CHAT, b"", headers, dict(headers), True)


def ours(*argv: str, **environ: str) -> Settings:
    return settings.parse(argv, environ, FLAGS)[0]


def test_admin_keys_come_from_all_places(tmp_path: Path) -> None:  # B-T3
    path = tmp_path / "keys"
    path.write_text("# of the operators\nthree\n")
    s = ours("--admin-key", "one,two", "--admin-key-file", str(path), "--api-key", "user")
    assert (s.admin_key, s.api_key) == (("one", "two", "three"), ("user",))
    s = ours(LLAMA_ROUTER_ADMIN_KEY="a,b", LLAMA_ROUTER_ADMIN_KEY_FILE=str(path))
    assert s.admin_key == ("a", "b", "three")
    assert "three" not in repr(s)
    assert not settings.parse(["--admin-key", "a"], {}, FLAGS)[1]  # no child gets it


@pytest.mark.parametrize(
    "name", ["LLAMA_API_KEY", "LLAMA_ARG_API_KEY_FILE", "LLAMA_ROUTER_ADMIN_KEY", "LLAMA_ROUTER_ADMIN_KEY_FILE"]
)
@pytest.mark.parametrize("word", ["", " ", "\t\n", ",", " , "])
def test_an_empty_key_locks_nothing(name: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is an error, which says what to do. B-T3"""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FlagError) as caught:
        ours(**{name: word})
    assert name in caught.value.message
    assert "unset it" in caught.value.message
    assert ours(LLAMA_ARG_MODELS_DIR="", LLAMA_ROUTER_ALLOWED_HOSTS="").models_dir is None
    assert ours("--api-key", "k", "--api-key-file", __file__, LLAMA_API_KEY="", LLAMA_ARG_API_KEY_FILE="").api_key


def test_an_empty_admin_key_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# none yet\n")
    with pytest.raises(FlagError, match=r"--admin-key-file .* holds no key"):
        ours("--admin-key-file", str(path))


@pytest.fixture(scope="module")
def router(fake: str, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    place = tmp_path_factory.mktemp("keys")
    keys = ("--api-key", "user,nützer", "--admin-key", "boss,ärger")
    router = start(place / "router", "--engine", fake, "--models-dir", str(tiny_models), *keys)
    router.client.headers["x-api-key"] = "boss"
    assert router.chat("tiny-a").status_code == 200
    yield router
    router.stop()


def test_each_key_opens_its_own(router: Router) -> None:  # B-T3
    for key, expected in (("user", 403), ("nützer", 403), ("boss", 200), ("ärger", 200), ("nobody", 401), (None, 401)):
        bytes_of = key and key.encode().decode("latin-1")
        headers = [JSON, *([("Authorization", f"Bearer {bytes_of}")] if bytes_of else [])]
        is_known = 401 if expected == 401 else 200
        for body in (question(), question(padding="x" * 200_000)):  # on both ways
            assert ask(router.url, "POST", CHAT, headers, body).status == is_known
        for target in ("/models", "/v1/models", "/props", "/metrics", "/api/tags", "/slots?model=tiny-a", "/"):
            assert ask(router.url, "GET", target, headers).status == is_known
        assert ask(router.url, "GET", "/slots?model=tiny-a&autoload=1", headers).status == is_known
        guarded: tuple[tuple[str, str, bytes | None], ...] = (
            ("POST", "/models/load", b'{"model": "tiny-a"}'),
            ("POST", "/models/load%0A", b'{"model": "tiny-a"}'),
            ("POST", "/models/reload", b""),
            ("GET", "/models?reload=1", None),
            ("HEAD", "/models?%72eload=1", None),
        )
        for method, target, sent in guarded:
            for is_sent in (False, True) if expected != 200 else (True,):
                wanted = 404 if expected == 200 and target.endswith("%0A") else expected  # which is no path of ours
                assert ask(router.url, method, target, headers, sent, is_sent=is_sent).status == wanted, (key, target)
    assert ask(router.url, "GET", "/health").status == 200
    answer = ask(router.url, "POST", "/models/load", [JSON, ("X-Api-Key", "user")], b"{}")
    assert "--admin-key" in answer.message


def test_keep_alive_unloads_with_any_key(router: Router) -> None:  # B-T3
    """As Ollama's clients do."""
    body = json.dumps({"model": "tiny-a", "keep_alive": 0}).encode()
    answer = ask(router.url, "POST", "/api/generate", [JSON, ("X-Api-Key", "user")], body)
    assert json.loads(answer.body)["done_reason"] == "unload"
    assert router.chat("tiny-a").status_code == 200


def test_key_header_sent_twice_is_ignored(router: Router) -> None:  # B-T3
    for headers in ([("X-Api-Key", "user")] * 2, [("Authorization", "Bearer no"), ("authorization", "Bearer boss")]):
        for body in (question(), question(padding="x" * 200_000)):
            assert ask(router.url, "POST", CHAT, [JSON, *headers], body).status == 401


def test_with_only_admin_keys(routers: Starter, fake: str, tiny_models: Path) -> None:  # B-T3
    """Inference is open: to programs, not to pages."""
    router = routers("--engine", fake, "--models-dir", str(tiny_models), LLAMA_ROUTER_ADMIN_KEY="boss")
    for _ in range(2):
        assert ask(router.url, "POST", CHAT, [JSON], question()).status == 200
    assert ask(router.url, "POST", CHAT, [JSON], question(), host="evil.example").status == 403
    assert ask(router.url, "POST", CHAT, [JSON, ("Origin", "https://evil.example")], question()).status == 403
    load = b'{"model": "tiny-b"}'
    for key, expected in (("nobody", 401), ("boss", 200)):
        assert ask(router.url, "POST", "/models/load", [JSON, ("X-Api-Key", key)], load).status == expected
    assert ask(router.url, "POST", "/models/load", [JSON], load).status == 401
    assert "boss" not in router.log


def test_keys_and_pages(router: Router) -> None:  # B-C14
    """An extension may not do what an admin key guards, whatever keys it has; a page gets the reason."""
    for origin, key, expected in (
        ("app://x", "boss", 403),
        ("http://localhost:1", "boss", 200),
        ("http://localhost:1", "user", 403),
        ("http://localhost:1", "nobody", 401),
    ):
        headers = [JSON, ("Origin", origin), ("X-Api-Key", key)]
        answer = ask(router.url, "POST", "/models/load", headers, b'{"model": "tiny-a"}')
        assert (answer.status, answer.cors["allow-origin"]) == (expected, origin)


@pytest.mark.parametrize(
    ("host", "flags", "is_open"),
    [
        ("127.0.0.1", (), False),
        ("::1", (), False),
        ("localhost", (), False),
        ("0.0.0.0", (), True),
        ("::", (), True),
        ("0.0.0.0", ("--api-key", "k"), False),
        ("0.0.0.0", ("--admin-key", "k"), True),
        ("{folder}/r.sock", (), False),
    ],
)
def test_open_listener_without_key_logs_a_warning(
    host: str, flags: tuple[str, ...], is_open: bool, routers: Starter, fake: str, tmp_path: Path
) -> None:  # B-T3
    where = host.format(folder=tmp_path)
    where = f"127.0.0.1,{where}" if where.endswith(".sock") else where
    router = routers("--engine", fake, "--host", where, *flags)
    warnings = [line for line in router.log.splitlines() if "NO KEY IS SET" in line]
    assert len(warnings) == int(is_open)
    if is_open:
        assert " W " in warnings[0]
        assert "--api-key" in warnings[0]
        assert "LLAMA_API_KEY" in warnings[0]
