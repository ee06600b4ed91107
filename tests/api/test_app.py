"""The HTTP surface of whole routers, beyond what `test_parity` compares: keys, error shapes, limits, listeners, loads.

Their engine is the fake one, whose children load and answer as slowly as a test says.
"""

from __future__ import annotations

import concurrent.futures
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Starter
from tests.routers import Router, chat, start
from tests.waiting import until

JSON = {"content-type": "application/json"}


@pytest.fixture
def launch(fake: str, routers: Starter) -> Callable[..., Router]:
    return lambda *flags, **environ: routers("--engine", fake, *flags, **environ)


@pytest.fixture
def folder(tmp_path: Path, tiny_models: Path) -> Callable[..., Path]:
    """A folder with models of these names."""

    def make(*names: str) -> Path:
        place = tmp_path / "models"
        place.mkdir()
        for name in names:
            (place / f"{name}.gguf").hardlink_to(tiny_models / "tiny-a.gguf")
        return place

    return make


@pytest.fixture(scope="module")
def router(fake: str, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """Three models and keys: for tests that leave nothing behind."""
    place = tmp_path_factory.mktemp("app")
    (place / "keys").write_text("# of the team\nthird\n\n")
    (place / "presets.ini").write_text(
        f"[org/team/model:v1]\nmodel = {tiny_models}/tiny-a.gguf\n\n"
        f"[sick]\nmodel = {tiny_models}/tiny-a.gguf\nenv.FAKE_FAIL = error: out of luck\n"
    )
    router = start(
        place / "router",
        *("--engine", fake, "--models-dir", str(tiny_models), "--models-preset", str(place / "presets.ini")),
        *("--api-key", "first,söcond", "--api-key-file", str(place / "keys"), "--max-body-size", "1"),
    )
    router.client.headers["authorization"] = "Bearer first"
    yield router
    router.stop()


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object; fails if its shape is not that of the path's dialect."""
    body = response.json()
    if response.request.url.path.startswith("/v1/messages"):
        assert (body["type"], body.keys()) == ("error", {"type", "error", "request_id"})
        assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
        assert body["error"].keys() == {"type", "message"}
    else:
        assert body["error"].keys() == {"code", "message", "type", "param"}
        assert body["error"]["code"] == response.status_code
    assert body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error


# Keys


@pytest.mark.parametrize("key", ["first", "söcond", "third"])
@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_each_key_opens(router: Router, key: str, header: str) -> None:
    with httpx.Client(base_url=router.url) as client:
        value = key if header == "x-api-key" else f"Bearer {key}"
        for text, status in ((value, 200), (value[:-1], 401), (value + "x", 401)):
            assert client.get("/v1/models", headers=[(header.encode(), text.encode())]).status_code == status


def test_only_health_is_open(router: Router) -> None:
    with httpx.Client(base_url=router.url) as client:
        for path in ("/health", "/v1/health"):
            assert client.get(path).json() == {"status": "ok"}
        for route in CLOSED:
            response = client.request(*route.split())
            assert (route, response.status_code) == (route, 401)
            assert error_of(response)["type"] == "authentication_error"


CLOSED = (
    *("GET /nowhere", "POST /v1/models", "GET /health/", "GET /props", "GET /metrics", "GET /models"),
    *("GET /v1/models", "GET /v1/models/tiny-a", "GET /models/sse", "POST /models/load", "POST /models/unload"),
    *("POST /models/reload", "GET /slots", "POST /v1/chat/completions", "POST /v1/messages", "POST /completion"),
    *("OPTIONS /models", "GET /%2fhealth"),
)


def test_no_key_in_the_log(router: Router) -> None:
    assert "third" not in router.log
    assert "söcond" not in router.log


# Error shapes


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions", "/embeddings"])
def test_errors_in_the_dialect(router: Router, path: str) -> None:  # B-C1
    def post(**more: Any) -> tuple[int, str]:
        response = router.client.post(path, **more)
        return response.status_code, error_of(response)["type"]

    assert post(json=chat("nowhere")) == (404, "not_found_error")
    assert post(json=chat(None)) == (400, "invalid_request_error")
    assert post(json=[]) == (400, "invalid_request_error")
    assert post(content=b"{", headers=JSON) == (400, "invalid_request_error")
    assert post(json=chat("tiny-a"), headers={"authorization": "Bearer no"}) == (401, "authentication_error")
    assert post(content=b" " * 2**20 + b"{}")[0] == 413
    wrong = router.client.put(path)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert error_of(wrong)


def test_a_model_that_cannot_be_loaded(router: Router) -> None:  # B-P3 B-S14
    """Twice it is tried, and told in the child's words; then clients are to come again later."""
    told = {
        "/v1/chat/completions": ("server_error", "unavailable_error"),
        "/v1/messages": ("api_error", "overloaded_error"),
    }
    for path, (failed, _) in told.items():
        response = router.client.post(path, json=chat("sick"))
        assert response.headers["x-should-retry"] == "false"
        assert (response.status_code, error_of(response)["type"]) == (500, failed)
        assert "out of luck" in error_of(response)["message"]
    status = router.listing()["sick"]["status"]
    assert (status["value"], status["failed"], status["exit_code"]) == ("unloaded", True, 1)
    assert "out of luck" in status["error"]
    for path, (_, unavailable) in told.items():
        response = router.client.post(path, json=chat("sick"))
        assert error_of(response)["type"] == unavailable
        assert response.status_code == (529 if unavailable == "overloaded_error" else 503)
        assert int(response.headers["retry-after"]) >= 1
        assert "out of luck" in error_of(response)["message"]


# Names


def test_one_model(router: Router) -> None:  # B-C2
    listed = router.listing()
    for name in ("tiny-a", "org/team/model:v1"):
        assert router.client.get(f"/v1/models/{name}").json() == listed[name]
    assert router.client.get("/v1/models/org%2Fteam%2Fmodel%3Av1").json()["id"] == "org/team/model:v1"
    response = router.client.get("/v1/models/org/team/model")
    assert (response.status_code, error_of(response)["type"]) == (404, "not_found_error")
    answer = router.client.post("/v1/chat/completions", json=chat("org/team/model:v1")).json()
    assert answer["model"] == "org/team/model:v1"


NAMES = [
    "x" * 10_000,
    "../../etc/passwd",
    "..",
    "tiny-a/../tiny-b",
    "tiny-a\x00",
    "a\nb",
    "\x1b[2J",
    "ü" * 300,
    " tiny-a",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_that_are_none(router: Router, name: str) -> None:  # B-C1
    quoted = httpx.URL("http://x/").copy_with(params={"model": name}).query.decode()
    for response in (
        router.client.post("/v1/chat/completions", json=chat(name)),
        router.client.post("/v1/messages", json=chat(name)),
        router.client.post("/models/load", json={"model": name}),
        router.client.post("/models/unload", json={"model": name}),
        router.client.get(f"/slots?{quoted}"),
        router.client.post(
            "/v1/audio/transcriptions", data={"model": name}, files={"file": ("a.wav", b"RIFF", "audio/wav")}
        ),
    ):
        assert response.status_code in (400, 404)
        assert error_of(response)
        assert len(response.content) < 500
    assert name not in router.log


def test_the_model_of_a_form(router: Router) -> None:
    """A transcription goes to its model, as it came."""
    files = {"file": ("speech.wav", b"RIFF" * 1000, "audio/wav")}
    response = router.client.post("/v1/audio/transcriptions", data={"model": "tiny-b"}, files=files)
    assert response.json()["path"] == "/v1/audio/transcriptions"
    assert response.json()["bytes"] == int(response.request.headers["content-length"]) > 4000
    assert router.status("tiny-b") == "loaded"


def test_what_a_child_is_told(router: Router) -> None:
    """A child is asked with its own key; what is between client and router stays there."""
    secret = {"x-api-key": "first", "x-conversation-id": "c1", "origin": "http://localhost", "x-custom": "kept"}
    response = router.client.post("/tokenize", json={"model": "tiny-a"}, headers={**secret, "x-request-id": "r-1"})
    headers = response.json()["headers"]
    assert headers.keys() & secret.keys() == {"x-custom"}
    assert headers["authorization"] != "Bearer first"
    assert (headers["x-request-id"], response.headers["x-request-id"]) == ("r-1", "r-1")


def test_without_a_model(launch: Callable[..., Router], folder: Callable[..., Path]) -> None:  # B-C1
    place = folder("only")
    router = launch("--models-dir", str(place))
    assert router.client.get("/props").json()["role"] == "router"
    assert router.chat(model=None).status_code == 200  # type: ignore[arg-type]
    assert router.client.post("/v1/messages", json=chat(None)).status_code == 200
    props = router.client.get("/props").json()
    assert (props["role"], props["path"]) == ("router", "/props")  # the router's and its child's


def test_the_default_model(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-C1
    router = launch("--models-dir", str(tiny_models), "--models-default", "tiny-b")
    assert router.chat(model=None).status_code == 200  # type: ignore[arg-type]
    assert router.chat(model="").status_code == 200
    assert [router.status(name) for name in ("tiny-a", "tiny-b")] == ["unloaded", "loaded"]
    assert router.chat("nowhere").status_code == 404


# Limits


def test_a_body_too_large(router: Router) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 2**15

    for content in (b" " * (2**20 + 1), pieces()):  # with a length, and in chunks
        response = router.client.post("/v1/chat/completions", content=content)
        assert response.status_code == 413
        assert "1 MiB" in error_of(response)["message"]
    assert router.client.post("/tokenize", json={"model": "tiny-a", "content": "x" * 2**19}).status_code == 200


# Requests without a token limit


def sent(router: Router, path: str, body: str) -> str:
    """The body that the child got."""
    answer = router.client.post(path, content=body.encode(), headers=JSON)
    assert answer.status_code == 200
    return str(answer.json()["body"])


@pytest.mark.parametrize("path", ["/v1/responses", "/responses", "/v1/messages", "/completion", "/infill"])
def test_an_unlimited_request_gets_a_time_limit(router: Router, path: str) -> None:  # B-L14
    rest = ' "model" :"tiny-a", "x":1.0e2,"é":"\\u00e9",\n"x":2 } '
    assert sent(router, path, "\n{" + rest) == '\n{"t_max_predict_ms":600000,' + rest
    own = '{"t_max_predict_ms":  1, "model":"tiny-a"}'
    assert sent(router, path, own) == own


@pytest.mark.parametrize(
    ("path", "field"),
    [
        *((path, "max_tokens") for path in ("/v1/messages", "/responses", "/completion", "/infill")),
        *((path, "max_output_tokens") for path in ("/v1/responses", "/responses")),
        *((path, "n_predict") for path in ("/v1/responses", "/completion", "/infill")),
        *((path, "x") for path in ("/tokenize", "/apply-template", "/rerank", "/v1/messages/count_tokens", "/props")),
    ],
)
def test_a_limited_request_is_passed_byte_for_byte(router: Router, path: str, field: str) -> None:  # B-L14
    body = f' {{ "model" :"tiny-a", "{field}": 7, "x":1.0e2,"é":"\\u00e9",\n"x":2 }} '
    assert sent(router, path, body) == body


def test_no_time_limit_when_it_is_off(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-L14
    router = launch("--models-dir", str(tiny_models), "--max-generation-time", "0")
    assert sent(router, "/completion", '{"model":"tiny-a"}') == '{"model":"tiny-a"}'


def test_an_answer_that_does_not_come_is_ended(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-L14 B-S2
    flags = ("--models-dir", str(tiny_models), "--max-generation-time", "0.1")
    tireless = launch(*flags, FAKE_FIRST_SECONDS="60")
    for path in ("/v1/chat/completions", "/v1/messages"):
        response = tireless.client.post(path, json={"model": "tiny-a", "messages": []})
        assert (response.status_code, error_of(response)["type"]) == (504, "timeout_error")
        assert "max_tokens" in error_of(response)["message"]
    assert tireless.client.post("/models/unload", json={"model": "tiny-a"}).status_code == 200
    until(lambda: tireless.status("tiny-a") == "unloaded")  # which waits for those that are served


def test_an_endless_stream_is_ended(launch: Callable[..., Router], tiny_models: Path, tmp_path: Path) -> None:  # B-L14
    """Its child is told at once. One with a limit may take as long as it needs."""
    flags = ("--models-dir", str(tiny_models), "--max-generation-time", "0.2")
    journal = tmp_path / "journal"
    router = launch(*flags, FAKE_TOKENS="100000", FAKE_CHUNK_SECONDS="0.05", FAKE_JOURNAL=str(journal))
    with router.stream("tiny-a", 0, max_tokens=None) as events:
        *parts, last = events.json()
    assert parts
    assert all(part["object"] == "chat.completion.chunk" for part in parts)
    assert last["error"]["code"] == 504
    until(lambda: " tiny-a gone " in journal.read_text())
    assert "has no token limit and is ended" in router.log
    with router.stream("tiny-a", 20) as events:
        assert events.json()[-1]["choices"][0]["finish_reason"] == "length"


def test_a_context_that_a_request_asks_for(router: Router) -> None:
    """It changes nothing, which is said once for each model."""
    for model in ("tiny-b", "tiny-c"):
        for body in ({"num_ctx": 4096}, {"options": {"num_ctx": 8192}}):
            assert router.client.post("/tokenize", json={"model": model, **body}).status_code == 200
        assert len(re.findall(f"{model}: a request's num_ctx changes nothing.*ctx-size", router.log)) == 1


# Listeners


def test_several_hosts(launch: Callable[..., Router], tiny_models: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    router = launch("--models-dir", str(tiny_models), "--host", f"127.0.0.1,::1,{path}")
    urls = re.findall(r"http://\S+:\d+", router.log)
    assert [url.rpartition(":")[0] for url in urls] == ["http://127.0.0.1", "http://[::1]"]
    for url in urls:
        with httpx.Client(base_url=url) as client:
            assert client.get("/health").status_code == 200
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://router") as client:
        assert client.post("/v1/chat/completions", json=chat("tiny-a")).json()["model"] == "tiny-a"


# Loads


def test_comments_while_a_model_loads(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-C5
    flags = ("--models-dir", str(tiny_models), "--stream-keepalive", "0.05")
    router = launch(*flags, FAKE_LOAD_SECONDS="0.4")
    body = chat("tiny-a", stream=True)
    text = router.client.post("/v1/chat/completions", json=body).text
    assert text.startswith(": ")
    lines = [line for line in text.splitlines() if line]
    comments = [line for line in lines if line.startswith(":")]
    events = [json.loads(line[6:]) for line in lines[len(comments) :] if line != "data: [DONE]"]
    assert len(comments) >= 3
    assert [event["object"] for event in events] == ["chat.completion.chunk"] * 5
    assert router.client.post("/v1/chat/completions", json=body).text.startswith("data: ")  # it runs now
    assert router.chat("tiny-b").json()["object"] == "chat.completion"  # no stream, no comments


def test_no_comments_unless_asked_for(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-C5
    router = launch("--models-dir", str(tiny_models), FAKE_LOAD_SECONDS="0.2")
    assert router.client.post("/v1/chat/completions", json=chat("tiny-a", stream=True)).text.startswith("data: ")


def test_what_watches_loads_nothing(launch: Callable[..., Router], folder: Callable[..., Path]) -> None:
    """Also with a single model, which a request need not name."""
    router = launch("--models-dir", str(folder("only")))
    for path in ("/health", "/models", "/v1/models/only", "/props", "/metrics", "/slots", "/lora-adapters"):
        for query in ("", "?model=only", "?model=only&autoload=0"):
            assert router.client.get(path + query).status_code in (200, 400)
    assert (router.status("only"), router.loads()) == ("unloaded", 0)
    assert router.client.get("/slots?autoload=1").status_code == 200
    assert router.status("only") == "loaded"


def test_unload_waits_for_a_running_stream(launch: Callable[..., Router], tiny_models: Path) -> None:
    router = launch("--models-dir", str(tiny_models), FAKE_CHUNK_SECONDS="0.02")
    with router.stream("tiny-a", 20) as events:
        next(events)
        assert router.client.post("/models/unload", json={"model": "tiny-a"}).json() == {"success": True}
        told = events.json()
        assert told[-1]["choices"][0]["finish_reason"] == "length"
    until(lambda: router.status("tiny-a") == "unloaded")
    assert router.loads() == 1


def test_a_forced_unload_does_not(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-C4
    router = launch("--models-dir", str(tiny_models), FAKE_CHUNK_SECONDS="0.05")
    with router.stream("tiny-a", 100) as events:
        next(events)
        assert router.client.post("/models/unload", json={"model": "tiny-a", "force": True}).status_code == 200
        assert events.json()[-1]["error"]["message"]
    until(lambda: router.status("tiny-a") == "unloaded")
    assert "failed" not in router.listing()["tiny-a"]["status"]


def test_unload_while_it_loads(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-L10
    """No failure, and who waited is told to come again."""
    router = launch("--models-dir", str(tiny_models), FAKE_LOAD_SECONDS="20")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(router.chat, "tiny-a")
        until(lambda: router.status("tiny-a") == "loading")
        assert router.client.post("/models/load", json={"model": "tiny-a"}).json()["status"] == "loading"
        assert router.client.post("/models/unload", json={"model": "tiny-a"}).json() == {"success": True}
        answer = waiting.result()
    assert (answer.status_code, error_of(answer)["type"]) == (503, "unavailable_error")
    until(lambda: router.children() == [])
    assert router.listing()["tiny-a"]["status"]["value"] == "unloaded"
    assert "failed" not in router.listing()["tiny-a"]["status"]


def test_progress_in_the_listing(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-P7
    router = launch("--models-dir", str(tiny_models), FAKE_LOAD_SECONDS="0.5")
    assert router.client.post("/models/load", json={"model": "tiny-a"}).json()["success"] is True
    until(lambda: "progress" in router.listing()["tiny-a"]["status"])
    progress = router.listing()["tiny-a"]["status"]["progress"]
    assert (progress["stages"], progress["current"]) == (["text_model"], "text_model")
    assert 0 <= progress["value"] <= 1
    until(lambda: router.status("tiny-a") == "loaded")
    assert "progress" not in router.listing()["tiny-a"]["status"]


def test_a_full_queue(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-S9
    flags = ("--models-dir", str(tiny_models), "--models-max", "1", "--models-queue-max", "0")
    router = launch(*flags, FAKE_CHUNK_SECONDS="0.02")
    with router.stream("tiny-a", 10_000) as events:
        next(events)
        for path, *told in (
            ("/v1/chat/completions", 503, "unavailable_error"),
            ("/v1/messages", 529, "overloaded_error"),
        ):
            response = router.client.post(path, json=chat("tiny-b"))
            assert [response.status_code, error_of(response)["type"]] == told
            assert int(response.headers["retry-after"]) >= 1


# Reload


def test_reload(launch: Callable[..., Router], tiny_models: Path, tmp_path: Path) -> None:  # B-L13
    presets = tmp_path / "presets.ini"
    same = f"[same]\nmodel = {tiny_models}/tiny-a.gguf\n"
    text = f"{same}[other]\nmodel = {tiny_models}/tiny-b.gguf\n[old]\nmodel = {tiny_models}/tiny-b.gguf\n"
    presets.write_text(text)
    router = launch("--models-preset", str(presets))
    for model in ("same", "other"):
        assert router.chat(model).status_code == 200
    presets.write_text(f"{text}no-such-option = 1\n")
    before = router.listing()
    for response in (router.client.post("/models/reload"), router.client.get("/models?reload=1")):
        assert response.status_code == 400
        message = error_of(response)["message"]
        assert "presets.ini:7" in message
        assert "no-such-option" in message
    assert router.listing() == before
    presets.write_text(f"{same}description = said anew\n[other]\nmodel = {tiny_models}/tiny-c.gguf\n[new]\nmodel = x\n")
    answer = router.client.post("/models/reload").json()
    assert answer == {"success": True, "added": ["new"], "changed": ["other"], "removed": ["old"], "kept": ["same"]}
    assert router.listing().keys() == {"same", "other", "new"}
    assert router.status("same") == "loaded"
    assert router.listing()["same"]["description"] == "said anew"
    until(lambda: router.status("other") == "unloaded")
    assert router.chat("same").status_code == 200
    assert router.loads("same") == 1
    assert router.chat("old").status_code == 404


def test_an_offer_of_another_protocol_is_declined(router: Router) -> None:
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"}
    for _ in range(2):  # the second one on a kept connection
        answer = router.client.post("/v1/chat/completions", json=chat("tiny-a"), headers=offer)
        assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")
    assert "Unsupported upgrade" not in router.log
