"""Bad input over HTTP, on the real engines: each is an error that says what is wrong, and costs others nothing."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import psutil
import pytest

from router import demo
from tests.routers import ENGINES, Router, chat, start
from tests.waiting import PATIENCE_S, until

MIB = 2**20

# What is wrong with the model of that name, and what the error says of it.
BROKEN = {
    "gone": "gone.gguf is missing",
    "shard": "shard-00002-of-00002.gguf of 2 is missing",
    "cut": "cut.gguf is damaged or incomplete: the tensor",
    "cut-header": "cut-header.gguf is damaged or incomplete: the file ends within the header",
    "hostile": f"hostile.gguf is damaged or incomplete: it claims {2**62} fields",
    "text": "text.gguf is not a GGUF file",
    "folder": "folder.gguf is a folder, not a file",
    "martian": "it does not know the architecture martian; a newer engine may",
    "refused": "Unsupported cache type: nonsense",
}
# The embedded engine says it in words of its own.
EMBEDDED = BROKEN | {"refused": "it refused an argument (--cache-type-k: nonsense cannot be used"}


def write_presets(folder: Path) -> Path:
    """All of `BROKEN`, and `good`."""
    folder.mkdir()
    good = demo.write_tiny(folder / "good.gguf")
    content = good.read_bytes()
    (folder / "shard-00001-of-00002.gguf").write_bytes(content)
    (folder / "cut.gguf").write_bytes(content[: len(content) // 2])
    (folder / "cut-header.gguf").write_bytes(content[:300])
    (folder / "hostile.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62) + bytes(100))
    (folder / "text.gguf").write_text("This is no model.")
    (folder / "folder.gguf").mkdir()
    write_martian(folder / "martian.gguf")
    files = {name: f"{name}.gguf" for name in (*BROKEN, "good")}
    files |= {"shard": "shard-00001-of-00002.gguf", "refused": "good.gguf\ncache-type-k = nonsense"}
    presets = folder / "presets.ini"
    presets.write_text("".join(f"[{name}]\nmodel = {folder}/{file}\n" for name, file in files.items()))
    return presets


def write_martian(path: Path) -> None:
    """Sound, but of an architecture that no engine knows."""
    writer = gguf.GGUFWriter(path, "martian")
    writer.add_block_count(1)
    writer.add_context_length(16)
    writer.add_embedding_length(32)
    writer.add_head_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module", params=sorted(ENGINES))
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("bad")
    presets = write_presets(folder / "models")
    flags = ("--engine", ENGINES[request.param](), "--models-preset", str(presets), "--threads", "1")
    router = start(folder / "router", *flags)
    yield router
    assert router.stop() == 0


@pytest.fixture
def router(shared: Router) -> Iterator[Router]:
    """The same for all tests: each leaves it as it was, serving, with the good model's child alone and no traceback."""
    yield shared
    assert shared.chat("good").status_code == 200
    until(lambda: len(shared.children()) == 1)
    for name in ("good", *BROKEN):
        assert shared.figure("requests_active", name) == shared.figure("requests_waiting", name) == 0
    assert "Traceback" not in shared.log
    assert "defect" not in shared.log


def message_of(answer: httpx.Response, status: int) -> str:
    """The sentence of an error in llama-server's shape."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == status
    assert error["type"]
    assert len(answer.content) < 2000
    return str(error["message"])


def post(router: Router, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
    return router.client.post(path, content=body, headers={"content-type": "application/json", **headers})


def connect(router: Router) -> socket.socket:
    url = httpx.URL(router.url)
    return socket.create_connection((url.host, url.port), timeout=PATIENCE_S)


def head(length: int) -> bytes:
    return f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


# ---- models


@pytest.mark.parametrize("name", BROKEN)
def test_model_that_cannot_be_loaded(router: Router, name: str) -> None:  # B-D4 B-P3
    answer = router.chat(name)
    expected = EMBEDDED if "xllamacpp" in router.log else BROKEN
    assert expected[name] in message_of(answer, 500)
    with router.stream(name) as events:
        assert events.response.status_code == 500
    # The listing says it too, of files before anybody asks for them.
    assert expected[name] in router.listing()[name]["status"]["error"]
    assert router.status(name) == "unloaded"


def test_load_of_a_broken_model(router: Router) -> None:
    assert BROKEN["text"] in message_of(post(router, b'{"model": "text"}', "/models/load"), 500)


# ---- bodies


BODIES: dict[str, tuple[bytes, int, str]] = {
    "number": (b'{"model": 5}', 400, '"model" must be a string, the name of a model, not a number'),
    "true": (b'{"model": true}', 400, "not true or false"),
    "object": (b'{"model": {"a": 1}}', 400, "not an object"),
    "list": (b'["good"]', 400, "must be a JSON object, not a list"),
    "null": (b"null", 400, "must be a JSON object, not null"),
    "model null": (b'{"model": null}', 400, "model"),
    "empty": (b"", 400, "model"),
    "empty name": (b'{"model": ""}', 400, "model"),
    "nested": (b"[" * 100_000 + b"]" * 100_000, 400, "is not valid JSON"),
    "nested beside": (
        b'{"model": "good", "x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        400,
        "is not valid JSON",
    ),
    "unfinished": (b'{"model": "good"', 400, "is not valid JSON"),
    "two": (b'{"model": "good"} {"model": "good"}', 400, "is not valid JSON"),
    "no UTF-8": (b'{"model": "\xff\xfe"}', 400, "is not valid JSON"),
    "long": (json.dumps({"model": "x" * 10_000}).encode(), 404, "there is no model 'xxxx"),
    "path": (b'{"model": "../../etc/passwd"}', 404, "there is no model '../../etc/passwd'"),
    "absolute": (b'{"model": "/etc/passwd"}', 404, "there is no model '/etc/passwd'"),
    "nul": (b'{"model": "good\\u0000"}', 400, "without control characters"),
    "newline": (b'{"model": "good\\r\\nX: y"}', 400, "without control characters"),
    "half a pair": (b'{"model": "\\ud800"}', 400, '"model" must be the name of a model'),
    "near": (b'{"model": "goood"}', 404, "did you mean good?"),
    "messages": (b'{"model": "good", "messages": 5}', 400, "messages"),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/models/load"])
def test_body(router: Router, case: str, path: str) -> None:
    body, status, fragment = BODIES[case]
    if path == "/models/load" and case == "messages":
        status, fragment = 400, "'messages' is no setting of a load"
        assert router.chat("good").status_code == 200
    assert fragment in message_of(post(router, body, path), status)


def test_duplicate_keys_mean_the_last_as_with_the_engine(router: Router) -> None:
    body = json.dumps(chat("good", 1)).encode()
    assert post(router, b'{"model": "nope", ' + body[1:]).json()["model"] == "good"
    assert "'nope'" in message_of(post(router, body[:-1] + b', "model": "nope"}'), 404)


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=b", "nonsense"])
def test_body_of_another_kind(router: Router, content_type: str) -> None:
    answer = router.client.post(
        "/v1/audio/transcriptions", content=b"\x00junk" * 100, headers={"content-type": content_type}
    )
    assert "cannot be read" in message_of(answer, 400) or "not valid JSON" in message_of(answer, 400)


@pytest.mark.parametrize("path", ["/v1/models/..%2f..%2fetc", "/v1/models/%ff%00", "/slots?model=a%00%0d%0aX:%20b"])
def test_name_in_the_address(router: Router, path: str) -> None:
    assert "there is no model" in message_of(router.client.get(path), 404)


def test_error_in_the_other_dialect(router: Router) -> None:
    answer = post(router, b'{"model": 5}', "/v1/messages")
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert "must be a string" in answer.json()["error"]["message"]


# ---- sizes


class Memory:
    """How far a router's memory has grown."""

    def __init__(self, router: Router) -> None:
        self._process = psutil.Process(router.process.pid)
        self._before = self._process.memory_info().rss

    @property
    def growth(self) -> int:
        return int(self._process.memory_info().rss - self._before)


def test_large_body_is_refused_before_it_is_read(router: Router) -> None:
    memory = Memory(router)
    with connect(router) as client:
        client.sendall(head(100 * MIB) + b'{"model":"good","x":"')
        answer = HTTPResponse(client)
        answer.begin()  # at once: the rest was never sent
        assert answer.status == 413
        assert b"larger than 64 MiB. Send less, or raise --max-body-size." in answer.read()
    assert memory.growth < 10 * MIB


def test_large_body_that_is_sent_all_the_same(router: Router) -> None:
    memory = Memory(router)
    for _ in range(3):
        try:
            answer = post(router, b'{"model":"good","x":"' + b"a" * 100 * MIB + b'"}')
        except httpx.WriteError:  # the router has closed the connection by then
            continue
        assert "--max-body-size" in message_of(answer, 413)
    assert memory.growth < 50 * MIB


def test_large_body_of_untold_length(router: Router) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * MIB

    memory = Memory(router)
    for _ in range(3):
        try:
            answer = router.client.post("/v1/chat/completions", content=chunks())
        except httpx.WriteError:
            continue
        assert "--max-body-size" in message_of(answer, 413)
    assert router.chat("good").status_code == 200
    until(lambda: memory.growth < 100 * MIB)  # the limit, once


@pytest.mark.parametrize("headers", [{f"x-header-{n}": "v" for n in range(200)}, {"cookie": "v" * 9000}])
def test_headers_that_are_too_many_or_too_long(router: Router, headers: dict[str, str]) -> None:
    answer = post(router, json.dumps(chat("good", 1)).encode(), **headers)
    assert "headers are too many or too long" in message_of(answer, 400)


@pytest.mark.parametrize("headers", [{f"x-header-{n}": "v" for n in range(1000)}, {"cookie": "v" * 70_000}])
def test_headers_that_nobody_reads(router: Router, headers: dict[str, str]) -> None:  # B-T4
    answer = post(router, json.dumps(chat("good", 1)).encode(), **headers)
    assert "cookies" in message_of(answer, 431)


def test_no_http(router: Router) -> None:
    with connect(router) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("sent", [head(1000)[:40], head(1000), head(1000) + b'{"model": "go'])
def test_client_that_leaves_in_the_middle(router: Router, sent: bytes) -> None:  # B-S2
    before = descriptors(router)
    for _ in range(50):
        with connect(router) as client:
            client.sendall(sent)
    until(lambda: descriptors(router) <= before)


def descriptors(router: Router) -> Any:
    return psutil.Process(router.process.pid).num_fds()
