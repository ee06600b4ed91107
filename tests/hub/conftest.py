"""A hub on loopback, and an environment without anything of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.downloads import Serve
from tests.hub_server import HubServer, Repo


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the user's own, and a short timeout."""
    for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "20")


@pytest.fixture
def serve(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    servers: list[HubServer] = []

    def start(repos: dict[str, Repo]) -> HubServer:
        servers.append(HubServer(repos).__enter__())
        monkeypatch.setenv("HF_ENDPOINT", servers[-1].url)
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__(None, None, None)
