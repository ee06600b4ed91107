"""The image for CPUs, as it is built from the Dockerfile: it serves from a root that cannot be written. B-I2"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from router import demo
from tests import image
from tests.image import Container, Image, running
from tests.routers import Events, chat
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.timeout(1800)


# One test alone wants it: two of them might get one each, and that takes a minute.
@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Image:
    if os.getuid() != 0:
        pytest.skip("this machine's user may not make containers")
    if lacking := image.missing():
        pytest.skip(f"not installed: {', '.join(lacking)}")
    return image.build(tmp_path_factory.mktemp("image"))


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def container(built: Image, port: int, tmp_path: Path) -> Iterator[Container]:
    (tmp_path / "models").mkdir()
    demo.make_models(tmp_path / "models")
    environ = {"LLAMA_ARG_PORT": str(port), "LLAMA_ARG_THREADS": "1", "LLAMA_ROUTER_SHUTDOWN_GRACE": "2"}
    with running(built, tmp_path, **environ) as container:
        until(lambda: answers(port) or container.process.poll() is not None)
        assert container.process.poll() is None, container.log.read_text()
        yield container


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


# B-I2
def test_it_answers_from_a_root_that_cannot_be_written_and_ends_under_a_stream(container: Container, port: int) -> None:
    config = container.image.config
    assert config["Labels"]["org.opencontainers.image.title"] == "llama-router"
    assert config["Entrypoint"] == ["tini", "--", "llama-router"]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
        answer = client.post("/v1/chat/completions", json=chat("tiny-a"))
        assert answer.status_code == 200, answer.text
        assert "<title>" in client.get("/router").text

        # The health check of the image, with the port that its user chose.
        kind, *words = config["Healthcheck"]["Test"]
        assert kind == "CMD"
        assert container.execute(*words, LLAMA_ARG_PORT=str(port)).returncode == 0
        assert container.execute(*words, LLAMA_ARG_PORT="1", TMPDIR="/data").returncode == 3

        written = container.execute("sh", "-c", "for d in / /opt/llama-router /models; do touch $d/x || echo no; done")
        assert written.stdout.split() == ["no"] * 3
        assert container.first.name() == "tini"
        everyone = [container.first, *container.first.children(recursive=True)]
        assert {uid for process in everyone for uid in process.uids()} == {container.image.user}
        footprints = container.log.parent / "cache/llama-router/footprints.json"
        until(footprints.exists, PATIENCE_S)  # a load is measured some time after it

        with client.stream("POST", "/v1/chat/completions", json=chat("tiny-b", 100_000, stream=True)) as response:
            events = Events(response)
            next(events)
            container.first.send_signal(signal.SIGTERM)
            assert [*events], "what is left of the stream"
    assert container.process.wait(PATIENCE_S) == 0, container.log.read_text()
    assert not [process for process in everyone if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
