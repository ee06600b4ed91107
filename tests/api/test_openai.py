"""Which model a request goes to, and what its child gets of it."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.api.error_shapes import error_of
from tests.routers import Router, chat

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
def test_a_wrong_name_is_a_short_error(router: Router, name: str) -> None:  # B-C1
    log = len(router.log)
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
    assert name not in router.log[log:]


def test_a_form_goes_to_the_model_that_it_names(router: Router) -> None:
    """A transcription goes to its model, as it came."""
    files = {"file": ("speech.wav", b"RIFF" * 1000, "audio/wav")}
    response = router.client.post("/v1/audio/transcriptions", data={"model": "tiny-b"}, files=files)
    assert response.json()["path"] == "/v1/audio/transcriptions"
    assert response.json()["bytes"] == int(response.request.headers["content-length"]) > 4000
    assert router.status("tiny-b") == "loaded"


def test_a_child_gets_its_own_key_and_no_header_of_the_router(router: Router) -> None:
    """The router's key and its own headers are not passed on."""
    secret = {"x-api-key": "first", "x-conversation-id": "c1", "origin": "http://localhost", "x-custom": "kept"}
    response = router.client.post("/tokenize", json={"model": "tiny-a"}, headers={**secret, "x-request-id": "r-1"})
    headers = response.json()["headers"]
    assert headers.keys() & secret.keys() == {"x-custom"}
    assert headers["authorization"] != "Bearer first"
    assert (headers["x-request-id"], response.headers["x-request-id"]) == ("r-1", "r-1")


def test_a_single_model_needs_no_name(launch: Callable[..., Router], folder: Callable[..., Path]) -> None:  # B-C1
    place = folder("only")
    router = launch("--models-dir", str(place))
    assert router.client.get("/props").json()["role"] == "router"
    assert router.chat(model=None).status_code == 200  # type: ignore[arg-type]
    assert router.client.post("/v1/messages", json=chat(None)).status_code == 200
    props = router.client.get("/props").json()
    assert (props["role"], props["path"]) == ("router", "/props")  # the router's and its child's


def test_requests_without_a_model_go_to_the_default(launch: Callable[..., Router], tiny_models: Path) -> None:  # B-C1
    router = launch("--models-dir", str(tiny_models), "--models-default", "tiny-b")
    assert router.chat(model=None).status_code == 200  # type: ignore[arg-type]
    assert router.chat(model="").status_code == 200
    assert [router.status(name) for name in ("tiny-a", "tiny-b")] == ["unloaded", "loaded"]
    assert router.chat("nowhere").status_code == 404


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body)


def deflated(body: bytes) -> bytes:
    return zlib.compress(body)


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzipped,
    "x-gzip": gzipped,
    "deflate": lambda b: zlib.compress(b),
}


@pytest.mark.parametrize("coding", PACKED)
def test_a_compressed_body_reaches_its_model_unpacked(router: Router, coding: str) -> None:
    """However small it is, and also while its model runs: such a head is not for the fast path."""
    for path, kind in (("/tokenize", "application/json"), ("/api/embed", ""), ("/detokenize", "")):
        for text in ("x", "x" * 100_000):
            body = json.dumps({"model": "tiny-a", "content": text, "input": "a"}).encode()
            headers = {"content-encoding": coding, "content-type": kind}
            answer = router.client.post(path, content=PACKED[coding](body), headers=headers)
            assert answer.status_code == 200, answer.text
            if path == "/tokenize":
                assert answer.json()["body"] == body.decode()
                assert "content-encoding" not in answer.json()["headers"]


def test_a_body_that_unpacks_to_more_than_the_limit_is_refused(router: Router) -> None:  # B-T5
    """The limit is 1 MiB here. Of a gigabyte no more than that is unpacked."""
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join([*(packer.compress(bytes(2**20)) for _ in range(1024)), packer.flush()])
    assert len(packed) < 2**20
    for _ in range(3):
        answer = router.client.post("/tokenize", content=packed, headers={"content-encoding": "gzip"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")
    assert psutil.Process(router.process.pid).memory_info().rss < 2**29


def test_another_compression_is_refused(router: Router) -> None:
    for coding in ("zstd", "br", "gzip, deflate"):
        answer = router.client.post("/tokenize", content=b"{}", headers={"content-encoding": coding})
        assert answer.status_code == 415
        assert "gzip or deflate" in answer.json()["error"]["message"]


def test_more_answers_than_are_returned_cannot_be_had(router: Router) -> None:  # B-C9
    for best_of, n, status in ((1, 1, 200), (1, None, 200), (2, 2, 200), (None, 2, 200), (2, 1, 400), (2, None, 400)):
        more = {name: value for name, value in (("best_of", best_of), ("n", n)) if value}
        answer = router.client.post("/v1/completions", json={"model": "tiny-a", "prompt": "a", **more})
        assert answer.status_code == status
        if status == 400:
            assert error_of(answer)
            assert answer.json()["error"]["param"] == "best_of"
