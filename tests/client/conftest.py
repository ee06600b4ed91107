from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from router.commands.main import main
from tests.shell import Ended

Run = Callable[..., Ended]


@pytest.fixture
def llama_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command in this process, as a user who runs no router and has set nothing."""
    for name in list(os.environ):
        if name.startswith(("LLAMA_", "HF_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    (tmp_path / "x").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "x"))
    monkeypatch.setattr("router.node.run_roots.SHARED", ())
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    stdin = open(os.devnull)  # noqa: SIM115 - it ends with the test
    monkeypatch.setattr(sys, "stdin", stdin)

    def run(*words: str, **environ: str) -> Ended:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        code = main(words)
        for name in environ:
            monkeypatch.delenv(name)
        return Ended(code, *capfd.readouterr())

    yield run
    stdin.close()


def make_certificate(folder: Path) -> tuple[str, str]:
    """A certificate for localhost by name alone, which its own key has signed; and the key."""
    folder.mkdir(exist_ok=True)
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    name = ("-addext", "subjectAltName=DNS:localhost")
    subprocess.run([*command, *name, "-keyout", key, "-out", certificate], capture_output=True, check=True)
    return certificate, key


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    return make_certificate(tmp_path / "tls")
