"""A real Open WebUI with the settings of docker/compose.yaml, in front of a router.

It is installed apart, in `.open-webui`: its libraries are older than the router's. What it computes embeddings, speech
and pictures with is left out, which is most of its size and nothing that a chat needs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.waiting import PATIENCE_S, until

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / ".open-webui/bin/open-webui"
INSTALL = "not installed: Open WebUI (the README's command for the tests says how)"
START_S = 300.0  # it imports a thousand modules and makes its database
# Nothing is looked up outside: neither a model for embeddings nor a newer version.
OFFLINE = {"OFFLINE_MODE": "true", "HF_HUB_OFFLINE": "1", "RAG_EMBEDDING_ENGINE": "openai", "DO_NOT_TRACK": "true"}


class OpenWebUI:
    """`client` speaks for its first account, which is its administrator."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=PATIENCE_S)

    def sign_up(self) -> None:
        person = {"name": "Ada", "email": "ada@example.org", "password": "not-a-secret"}
        answer = self.client.post("/api/v1/auths/signup", json=person)
        assert answer.status_code == 200, answer.text
        self.client.headers["authorization"] = f"Bearer {answer.json()['token']}"

    def models(self) -> dict[str, dict[str, Any]]:
        """Those that people may choose, by id, as the router tells them now."""
        return {model["id"]: model for model in self.ask("GET", "/api/models?refresh=true")["data"]}

    def ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = self.client.request(method, path, json=body or None)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@contextlib.contextmanager
def open_webui(folder: Path, environment: Mapping[str, str]) -> Iterator[OpenWebUI]:
    """One with nothing but this environment, and its data in `folder`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder.mkdir()
    own = {"PATH": os.defpath, "HOME": str(folder), "DATA_DIR": str(folder / "data"), **OFFLINE}
    command = [str(PROGRAM), "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,  # it keeps a secret here
            env={**own, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    made = OpenWebUI(f"http://127.0.0.1:{port}")

    def is_up() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        with contextlib.suppress(httpx.TransportError):
            return made.client.get("/health").status_code == 200
        return False

    try:
        until(is_up, patience=START_S, every=0.2)
        yield made
        made.client.close()
    finally:
        process.kill()
        process.wait()
