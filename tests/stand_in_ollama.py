#!/usr/bin/env python3
"""In the place of Ollama, for tests of the benchmarks: its command line and what they ask of its API, nothing more.

`serve` listens at OLLAMA_HOST and keeps models in OLLAMA_MODELS; each chat has a process of its own beside it, as an
engine is. `create NAME -f MODELFILE` asks the server to keep a model. It writes a key into HOME, as Ollama does.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

EVENT = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": " word"}}]}
ANSWER = {"object": "chat.completion", "choices": [{"message": {"content": "hi"}}], "usage": {"total_tokens": 2}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store = Path(os.environ.get("OLLAMA_MODELS", "/nonexistent"))
    runner: subprocess.Popen[bytes] | None = None

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/create":
            (self.store / body["model"]).write_text(body["from"])
            self.answer(200, {"status": "success"})
        elif not (self.store / body["model"]).is_file():
            self.answer(404, {"error": f"model '{body['model']}' not found"})
        elif self.path == "/api/generate":
            self.unload()
            self.answer(200, {"done": True})
        elif body.get("stream"):
            self.load()
            self.stream(body["max_tokens"])
        else:
            self.load()
            self.answer(200, ANSWER)

    def load(self) -> None:
        if Handler.runner is None or Handler.runner.poll() is not None:
            Handler.runner = subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(60)", "runner", "--port", "0"], stdin=subprocess.DEVNULL
            )

    def unload(self) -> None:
        if Handler.runner:
            Handler.runner.kill()
            Handler.runner.wait()
            Handler.runner = None

    def stream(self, tokens: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(tokens):
            if Handler.runner is None or Handler.runner.poll() is not None:
                self.close_connection = True  # without a word
                return
            self.event(json.dumps(EVENT))
            time.sleep(0.01)
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, data: str) -> None:
        line = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))

    def answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


def serve(host: str) -> None:
    Handler.store.mkdir(parents=True)
    keys = Path(os.environ["HOME"]) / ".ollama"
    keys.mkdir()
    (keys / "id_ed25519").write_text("a key")
    name, _, port = host.rpartition(":")
    server = Server((name, int(port)), Handler)

    def stop(*_: object) -> None:
        if Handler.runner:
            Handler.runner.kill()
            Handler.runner.wait()
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever()


def create(host: str, name: str, file: str) -> None:
    source = Path(file).read_text().removeprefix("FROM ").strip()
    if not Path(source).is_file():
        sys.exit(f"Error: no {source}")
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request("POST", "/api/create", json.dumps({"model": name, "from": source}))
    if connection.getresponse().status != 200:
        sys.exit("Error: the server refuses")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve(os.environ["OLLAMA_HOST"])
        case ["create", name, "-f", file]:
            create(os.environ["OLLAMA_HOST"], name, file)
        case ["--version"]:
            print("ollama version is 0-stand-in")
        case other:
            sys.exit(f"Error: unknown command {other}")
