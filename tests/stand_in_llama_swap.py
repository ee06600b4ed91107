#!/usr/bin/env python3
"""In the place of llama-swap, for tests of the benchmarks: its command line, its file and its limits, nothing more.

`--config FILE --listen HOST:PORT`. One model runs at a time; a request for another one ends it. Each model lets
`concurrencyLimit` requests through at once, ten without one, and answers more with 429. `GET /unload` ends all.
"""

from __future__ import annotations

import http.client
import json
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DEFAULT_LIMIT = 10
PATIENCE_S = 20.0


class Swap:
    def __init__(self, models: dict[str, dict[str, Any]]) -> None:
        self.models = models
        self.lock = threading.Lock()
        self.slots = {
            name: threading.BoundedSemaphore(model.get("concurrencyLimit", 0) or DEFAULT_LIMIT)
            for name, model in models.items()
        }
        self.running: tuple[str, subprocess.Popen[bytes], int] | None = None

    def port_of(self, name: str) -> int:
        with self.lock:
            if self.running and self.running[0] == name and self.running[1].poll() is None:
                return self.running[2]
            self.stop()
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = int(probe.getsockname()[1])
            command = shlex.split(self.models[name]["cmd"].replace("${PORT}", str(port)))
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            end = time.monotonic() + PATIENCE_S
            while not self.is_healthy(port, self.models[name]["checkEndpoint"]):
                if time.monotonic() > end or process.poll() is not None:
                    raise OSError(f"{name} did not start")
                time.sleep(0.01)
            self.running = name, process, port
            return port

    @staticmethod
    def is_healthy(port: int, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        if self.running:
            self.running[1].terminate()
            self.running[1].wait()
            self.running = None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    swap: Swap

    def do_GET(self) -> None:
        with self.swap.lock:
            self.swap.stop()
        self.answer(200, b"OK")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = json.loads(body)["model"]
        if name not in self.swap.models:
            self.answer(404, b"no such model")
        elif not self.swap.slots[name].acquire(blocking=False):
            self.answer(429, b"Too many requests")
        else:
            try:
                self.forward(self.swap.port_of(name), body)
            except OSError:
                self.close_connection = True
            finally:
                self.swap.slots[name].release()

    def forward(self, port: int, body: bytes) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        upstream.request("POST", self.path, body, {"Content-Type": "application/json"})
        response = upstream.getresponse()
        if response.getheader("Content-Length"):
            self.answer(response.status, response.read())
        else:
            self.send_response(response.status)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while data := response.read1(65536):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            self.wfile.write(b"0\r\n\r\n")
        upstream.close()

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


def main(argv: list[str]) -> None:
    given = dict(zip(argv[::2], argv[1::2], strict=True))
    with open(given["--config"], encoding="utf-8") as file:
        Handler.swap = Swap(json.load(file)["models"])
    host, _, port = given["--listen"].rpartition(":")
    server = Server((host, int(port)), Handler)

    def stop(*_: object) -> None:
        Handler.swap.stop()
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever()


if __name__ == "__main__":
    if "--version" in sys.argv:
        print("version: 0 (stand-in)")
    else:
        main(sys.argv[1:])
