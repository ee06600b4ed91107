"""Clients that people use, each in a process of its own.

They are installed apart, in `.clients` and `tests/clients/node_modules`: they need older libraries than the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.routers import Router

ROOT = Path(__file__).parents[1]
PLACE = ROOT / ".clients/bin"
MODULES = ROOT / "tests/clients/node_modules"
INSTALL = """the clients of this test are not installed: python3 -m venv .clients && \
.clients/bin/pip install -r tests/clients/requirements.txt && \
PATH="$PWD/.clients/bin:$PATH" npm ci --prefix tests/clients"""


def python(name: str) -> tuple[str, ...]:
    return "python", "-m", f"tests.clients.{name}"


@dataclass(frozen=True, slots=True)
class Kind:
    """A client to run.

    `error` is the class and the status of its error for an unknown model.
    `api` is the one of its APIs that it uses."""

    command: tuple[str, ...]
    error: tuple[str, int]
    api: str = ""


class Elsewhere(socketserver.TCPServer):
    """A proxy that answers nothing; `requests` has the first line of each request."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        super().__init__(("127.0.0.1", 0), Elsewhere.Visit)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    class Visit(socketserver.StreamRequestHandler):
        server: Elsewhere

        def handle(self) -> None:
            self.server.requests.append(self.rfile.readline())


class Program:
    """The process of a client: a line of JSON for each task. Requests to other hosts than 127.0.0.1 go to `proxy`."""

    def __init__(self, command: tuple[str, ...], folder: Path, proxy: str, ollama: str) -> None:
        program = PLACE / command[0]
        assert program.exists(), INSTALL
        assert MODULES.exists(), INSTALL
        environ = {
            "PATH": os.defpath,
            "HOME": str(folder),
            "http_proxy": proxy,
            "https_proxy": proxy,
            "no_proxy": "127.0.0.1",
            "NODE_USE_ENV_PROXY": "1",
            "OLLAMA_API_BASE": ollama,  # litellm looks up models here, whatever api_base is
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LANGSMITH_TRACING": "false",
        }
        self._log = folder / "client.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, *command[1:]],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(task), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, f"it ended:\n{self._log.read_text(errors='replace')}"
        return dict(json.loads(line))

    def close(self) -> None:
        """It ends by itself when its stdin ends."""
        with self.process:
            try:
                self.process.communicate(timeout=30)
            finally:
                self.process.kill()
        assert self.process.returncode == 0


class Front(ThreadingHTTPServer):
    """Passes POSTs on to a router, and counts them: a client that asks again is seen here."""

    daemon_threads = True

    def __init__(self, router: Router) -> None:
        self.router, self.count = router, 0
        super().__init__(("127.0.0.1", 0), Front.Visit)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    class Visit(BaseHTTPRequestHandler):
        server: Front

        def do_POST(self) -> None:
            self.server.count += 1
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {"content-type": self.headers["content-type"]}
            answer = self.server.router.client.post(self.path, content=body, headers=headers)
            self.send_response(answer.status_code)
            for name in ("content-type", "content-length", "x-should-retry", "retry-after"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *args: object) -> None:
            pass


@contextlib.contextmanager
def in_front(router: Router) -> Iterator[Front]:
    with Front(router) as front:
        threading.Thread(target=front.serve_forever, args=(0.05,), daemon=True).start()
        yield front
        front.shutdown()


@contextlib.contextmanager
def started(folder: Path, ollama: str) -> Iterator[Callable[[Kind], Program]]:
    """Starts each client once. At the end, none of them has sent a request to anything but the router."""
    with Elsewhere() as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, args=(0.05,), daemon=True).start()
        running: dict[tuple[str, ...], Program] = {}

        def program(kind: Kind) -> Program:
            if kind.command not in running:
                home = folder / f"client{len(running)}"
                home.mkdir()
                running[kind.command] = Program(kind.command, home, elsewhere.url, ollama)
            return running[kind.command]

        yield program
        for each in running.values():
            each.close()
        elsewhere.shutdown()
        assert elsewhere.requests == []
