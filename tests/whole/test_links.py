"""Presets that name their models by addresses: routers that download them, from servers on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Starter
from tests.file_server import FileServer, Served
from tests.projector_shapes import small_projector
from tests.routers import ENGINES, FAKE, Router
from tests.waiting import until

GGUF, MMPROJ = "application/vnd.docker.ai.gguf.v3", "application/vnd.docker.ai.mmproj"


@pytest.fixture
def server(tiny_models: Path) -> Iterator[FileServer]:
    with FileServer() as server:
        server.files["/tiny.gguf"] = Served((tiny_models / "tiny-a.gguf").read_bytes(), etag='"v1"')
        yield server


def preset(folder: Path, *sections: str) -> str:
    path = folder / "models.ini"
    path.write_text("\n".join(sections))
    return str(path)


@pytest.mark.parametrize("engine", ["embedded", "llama-server"])
def test_a_model_is_downloaded_from_its_address(
    routers: Starter, server: FileServer, tmp_path: Path, engine: str
) -> None:  # B-F6
    kept = tmp_path / "kept.gguf"
    router = routers(
        *("--engine", ENGINES[engine](), "--models-preset"),
        preset(
            tmp_path,
            f"[by-url]\nmodel-url = {server.url}/tiny.gguf?sig=secret-signature\nctx-size = 128",
            f"[kept]\nmodel-url = {server.url}/tiny.gguf\nmodel = {kept}\nctx-size = 128",
        ),
    )
    assert router.status("by-url") == "unloaded"
    assert router.chat("by-url").status_code == 200
    assert router.chat("kept").status_code == 200
    assert kept.read_bytes() == server.files["/tiny.gguf"].data
    gets = server.requests.count(("GET", "/tiny.gguf"))
    for name in ("by-url", "kept"):
        router.client.post("/models/unload", json={"model": name})
        until(lambda name=name: router.status(name) == "unloaded")  # type: ignore[misc]
        assert router.chat(name).status_code == 200
    assert server.requests.count(("GET", "/tiny.gguf")) == gets
    assert "secret-signature" not in router.log


def test_a_split_model_with_a_projector_by_address(
    routers: Starter, server: FileServer, tmp_path: Path, tiny_models: Path
) -> None:  # B-F6
    data = (tiny_models / "tiny-a.gguf").read_bytes()
    for path in ("/m-00001-of-00002.gguf", "/m-00002-of-00002.gguf"):
        server.files[path] = Served(data)
    server.files["/mmproj.gguf"] = Served(small_projector(tmp_path, 64).read_bytes())
    server.files["/strange.gguf"] = Served(small_projector(tmp_path, 128).read_bytes())
    router = routers(
        *("--engine", FAKE, "--models-preset"),
        preset(
            tmp_path,
            f"[m]\nmodel-url = {server.url}/m-00001-of-00002.gguf\nmmproj-url = {server.url}/mmproj.gguf",
            f"[local]\nmodel = {tiny_models / 'tiny-a.gguf'}\nmmproj-url = {server.url}/mmproj.gguf",
            f"[other]\nmodel = {tiny_models / 'tiny-a.gguf'}\nmmproj-url = {server.url}/strange.gguf",
        ),
    )
    answer = router.chat("m")
    assert answer.status_code == 200, answer.text
    assert router.chat("local").status_code == 200
    command = router.children()[0].cmdline()
    files = [Path(command[command.index(flag) + 1]) for flag in ("--model", "--mmproj")]
    assert [file.name for file in files] == ["m-00001-of-00002.gguf", "mmproj.gguf"]
    assert files[0].with_name("m-00002-of-00002.gguf").exists()
    assert "rows of 128" in router.chat("other").json()["error"]["message"]
    assert not any("-url" in word for child in router.children() for word in child.cmdline())


@pytest.mark.parametrize("engine", ["embedded", FAKE])
def test_a_model_of_a_registry_of_docker(
    routers: Starter, server: FileServer, tmp_path: Path, engine: str
) -> None:  # B-F6
    text = server.publish("ai/tiny", "Q8_0", (GGUF, server.files["/tiny.gguf"].data, ""))
    router = routers(
        "--engine", engine, "--models-preset", preset(tmp_path, f"[d]\ndocker-repo = {text}\nctx-size = 128")
    )
    lines = router.client.post("/api/pull", json={"model": "d"}).text.splitlines()
    assert json.loads(lines[-1]) == {"status": "success"}
    assert any(json.loads(line).get("completed") for line in lines)
    assert router.loads("d") == 0
    assert router.chat("d").status_code == 200


def test_a_download_by_address_is_shown_and_can_be_cancelled(
    routers: Starter, server: FileServer, tmp_path: Path
) -> None:  # B-F6 B-H4
    file = server.files["/tiny.gguf"]
    file.gate, file.stop_at = threading.Event(), 1000
    router = routers(
        "--engine", FAKE, "--models-preset", preset(tmp_path, f"[m]\nmodel-url = {server.url}/tiny.gguf?sig=hidden")
    )
    assert router.client.post("/models", json={"model": "m"}).json()["status"] == "downloading"
    until(lambda: f"{server.url}/tiny.gguf" in router.listing()["m"]["status"].get("progress", {}))
    router.client.post("/models/unload", json={"model": "m"})
    until(lambda: router.status("m") == "unloaded")
    file.gate.set()
    assert router.chat("m").status_code == 200
    assert server.sent["/tiny.gguf"] <= len(file.data) + 1000


def test_addresses_are_the_operators_alone(routers: Starter, server: FileServer, tmp_path: Path) -> None:
    # B-F6 B-T2
    router = routers(
        *("--engine", FAKE, "--hub-allow", "*", "--models-preset"),
        preset(tmp_path, f"[m]\nmodel-url = {server.url}/tiny.gguf"),
        HF_ENDPOINT=server.url,
    )
    url = f"{server.url}/other.gguf"
    server.files["/other.gguf"] = Served(b"GGUF")
    for name in (url, f"docker://{server.host}/ai/tiny", f"{server.host}/ai/tiny:latest"):
        assert router.chat(name).status_code == 404
        assert router.client.post("/models", json={"model": name}).status_code == 400
        assert router.client.post("/api/pull", json={"model": name, "stream": False}).status_code == 400
    for flag in ("--model-url", "--mmproj-url", "--docker-repo"):
        body = {"model": "m", "extra_args": [flag, url]}
        assert router.client.post("/models/load", json=body).status_code == 400, flag
    assert server.requests == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("model-url = file:///etc/passwd", "no address that can be downloaded"),
        ("model-url = ../m.gguf", "no address that can be downloaded"),
        ("mmproj-url = ftp://h/x.gguf\nmodel = TINY", "no address that can be downloaded"),
        ("docker-repo = ../x", "no name of the form"),
        ("model-url = URL", "--offline forbids"),
        ("model = TINY\nmmproj-url = URL", "--offline forbids"),
        ("docker-repo = ai/tiny", "--offline forbids"),
    ],
)
def test_what_cannot_be_downloaded_is_a_problem(
    routers: Starter, server: FileServer, tmp_path: Path, tiny_models: Path, line: str, words: str
) -> None:  # B-F6
    line = line.replace("URL", f"{server.url}/m.gguf").replace("TINY", str(tiny_models / "tiny-a.gguf"))
    router = routers("--engine", FAKE, "--offline", "--models-preset", preset(tmp_path, f"[m]\n{line}"))
    assert words in router.chat("m").json()["error"]["message"]
    assert server.requests == []


def test_a_failed_download_by_address_is_an_error_that_says_why(
    routers: Starter, server: FileServer, tmp_path: Path
) -> None:  # B-F6
    server.files["/page.gguf"] = Served(b"<html>log in</html>" * 1000)
    router = routers(
        *("--engine", FAKE, "--models-preset"),
        preset(
            tmp_path,
            f"[gone]\nmodel-url = {server.url}/gone.gguf",
            f"[page]\nmodel-url = {server.url}/page.gguf",
            f"[none]\ndocker-repo = {server.host}/ai/none",
        ),
    )
    for name, status, words in (("gone", 404, "is not there"), ("page", 502, "no GGUF"), ("none", 404, "not there")):
        answer = router.chat(name)
        assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text


def test_an_address_on_the_command_line(routers: Starter, server: FileServer) -> None:  # B-F6
    router = routers("--engine", FAKE, "--model-url", f"{server.url}/tiny.gguf")
    assert list(router.listing()) == ["tiny"]
    assert router.chat("tiny").status_code == 200
    by_variable: Router = routers("--engine", FAKE, LLAMA_ARG_MODEL_URL=f"{server.url}/tiny.gguf")
    assert by_variable.chat("tiny").status_code == 200
