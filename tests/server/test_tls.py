"""HTTPS: what a client may take before its handshake is done."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.conftest import Starter
from tests.routers import Router, chat
from tests.waiting import until


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """The paths of a key and its certificate."""
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], capture_output=True, check=True)
    return key, certificate


@pytest.fixture
def router(routers: Starter, fake: str, tiny_models: Path, certificate: tuple[str, str]) -> Router:
    key, cert = certificate
    flags = ("--ssl-key-file", key, "--ssl-cert-file", cert, "--max-connections", "12", "--client-timeout", "3")
    router = routers("--engine", fake, "--models-dir", str(tiny_models), *flags)
    router.client = httpx.Client(base_url=router.url, verify=False)
    return router


def connect(router: Router) -> socket.socket:
    url = httpx.URL(router.url)
    return socket.create_connection((url.host, url.port), timeout=10)


def descriptors(router: Router) -> int:
    return len(list(Path(f"/proc/{router.process.pid}/fd").iterdir()))


def test_https_serves(router: Router) -> None:
    assert router.url.startswith("https://")
    for _ in range(3):
        assert router.chat("tiny-a").status_code == 200
    with router.stream("tiny-a", 6) as events:
        assert len(events.json()) >= 6
    large = router.client.post("/v1/chat/completions", json=chat("tiny-a", text="x" * 500_000))
    assert large.status_code == 200
    assert router.stop() == 0
    assert "Traceback" not in router.log


def test_connections_without_a_handshake_make_room(router: Router) -> None:  # B-T4
    assert router.chat("tiny-a").status_code == 200
    before = descriptors(router)
    silent = [connect(router) for _ in range(60)]
    assert httpx.get(f"{router.url}/health", verify=False).status_code == 200
    assert descriptors(router) < before + 20
    for one in silent:
        one.close()
    until(lambda: descriptors(router) <= before)


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", bytes.fromhex("1603010200010001fc0303"), b"\0" * 9999]
)
def test_slow_handshake_times_out(router: Router, said: bytes) -> None:  # B-T4
    with connect(router) as client:
        client.sendall(said)
        with contextlib.suppress(ConnectionError):
            while client.recv(65536):  # an alert, at most
                pass
    assert router.chat("tiny-a").status_code == 200
    assert "Traceback" not in router.log


def test_slow_request_over_tls_times_out(router: Router) -> None:  # B-T4
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(connect(router)) as client:
        client.sendall(b"GET /models HTTP/1.1\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 408 ")
