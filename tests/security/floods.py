"""What a client without a key costs a router, and what another client notices: `python -m tests.security.floods`."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from router import settings
from router.demo import write_tiny
from tests.routers import FAKE, Router, start

MIB = 2**20
KEY = "secret"
TIMEOUT = 2.0  # --client-timeout of these routers, where they know it
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


@dataclass
class Cost:
    """What a flood costs.

    - `grown`: the most memory above idle, in bytes.
    - `kept`: how much of it is left at the end, in bytes.
    - `waits`: seconds that another client waited for each health check.
    """

    grown: int = 0
    kept: int = 0
    waits: list[float] = field(default_factory=list)
    answer: bytes = b""

    def __str__(self) -> str:
        waits = sorted(self.waits) or [0.0]
        late = waits[int(len(waits) * 0.99)] * 1000
        memory = f"memory +{self.grown / MIB:.0f} MiB, kept {self.kept / MIB:.0f} MiB, other client: "
        return (
            memory + f"p50 {statistics.median(waits) * 1000:.1f} ms, p99 {late:.0f} ms, worst {waits[-1] * 1000:.0f} ms"
        )


def connect(router: Router, patience: float = 20.0) -> socket.socket:
    url = httpx.URL(router.url)
    return socket.create_connection((url.host, url.port or 80), timeout=patience)


@contextlib.contextmanager
def watched(router: Router) -> Iterator[Cost]:
    """Measures the router during the block. Another client sends a request every 10 ms."""
    process, cost, ended = psutil.Process(router.process.pid), Cost(), threading.Event()
    idle = process.memory_info().rss

    def ask() -> None:
        with httpx.Client(base_url=router.url, timeout=30, headers={"Authorization": f"Bearer {KEY}"}) as client:
            while True:
                begin = time.monotonic()
                with contextlib.suppress(httpx.HTTPError):
                    client.get("/health")
                cost.waits.append(time.monotonic() - begin)
                if ended.wait(0.01):
                    return

    def measure() -> None:
        while True:
            cost.grown = max(cost.grown, process.memory_info().rss - idle)
            if ended.wait(0.01):
                return

    threads = [threading.Thread(target=ask), threading.Thread(target=measure)]
    for thread in threads:
        thread.start()
    try:
        yield cost
        end = time.monotonic() + 8
        while (kept := process.memory_info().rss - idle) > 32 * MIB and time.monotonic() < end:
            time.sleep(0.05)
        cost.kept = kept
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def pour(router: Router, begin: bytes, piece: bytes, size: int, end: bytes = b"") -> bytes:
    """Sends up to `size` bytes, as long as the router reads them. Returns the response."""
    with connect(router, 5.0) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(begin)
            for _ in range(size // len(piece)):
                connection.sendall(piece)
            connection.sendall(end)
        parts = []
        with contextlib.suppress(OSError):
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts)


def pipelined(router: Router) -> bytes:
    piece = (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n") * 1000
    return pour(router, b"", piece, 39 * MIB)


def endless_head(router: Router) -> bytes:
    return pour(router, HEAD, b"".join(b"X-%d: %s\r\n" % (n, b"y" * 60) for n in range(1000)), 81 * MIB)


def one_long_header(router: Router) -> bytes:
    return pour(router, HEAD + b"X: ", b"y" * 65536, 64 * MIB, b"\r\n\r\n")


def endless_trailers(router: Router) -> bytes:
    begin = HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    return pour(router, begin, b"".join(b"X-%d: %s\r\n" % (n, b"y" * 60) for n in range(1000)), 64 * MIB)


def refused_body(router: Router) -> bytes:
    """A client without a key that sends 50 MiB before it reads."""
    return pour(router, HEAD + b"Content-Length: %d\r\n\r\n" % (50 * MIB), b"x" * 65536, 50 * MIB)


def too_large_body(router: Router) -> bytes:
    key = b"Authorization: Bearer secret\r\n"
    return pour(router, HEAD + key + b"Content-Length: %d\r\n\r\n" % (80 * MIB), b"x" * 65536, 60 * MIB)


def leavers(router: Router, count: int = 2500) -> bytes:
    """Clients that send a part of a request and leave."""
    rng = random.Random(1)
    body = b'{"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}'
    whole = HEAD + b"Authorization: Bearer secret\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for _ in range(count):
        with contextlib.suppress(OSError), connect(router) as connection:
            connection.sendall(whole[: rng.randrange(len(whole) + 1)])
            if rng.random() < 0.5:  # a reset in place of an end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return b""


FLOODS: dict[str, Callable[[Router], bytes]] = {
    "39 MiB of pipelined requests": pipelined,
    "81 MiB of head": endless_head,
    "one header of 64 MiB": one_long_header,
    "64 MiB of trailers": endless_trailers,
    "50 MiB of a body without a key": refused_body,
    "80 MiB of a body above the limit": too_large_body,
    "2,500 clients that leave": leavers,
}


def _deadline() -> list[str]:
    known = {name for option in settings.OPTIONS for name in option.spellings}
    return ["--client-timeout", str(TIMEOUT)] if "--client-timeout" in known else []


def router(folder: Path, engine: str, files: int | None = None) -> Router:
    """A router with a key and a fake engine. `files` limits how many files it may open."""
    (folder / "models").mkdir(parents=True)
    write_tiny(folder / "models/tiny.gguf")
    flags = ["--engine", engine, "--models-dir", str(folder / "models"), "--api-key", KEY, *_deadline()]
    if files is None:
        return start(folder / "router", *flags)
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))"
    (folder / "limit").mkdir()
    (folder / "limit/sitecustomize.py").write_text(limit)
    return start(folder / "router", *flags, PYTHONPATH=os.pathsep.join([str(folder / "limit"), os.getcwd()]))


def silent(one: Router, count: int) -> tuple[int, list[socket.socket]]:
    """Opens `count` connections that send nothing. Returns how many could be opened, and the connections."""
    opened = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            opened.append(connect(one, 2.0))
    return len(opened), opened


def is_served(one: Router, patience: float) -> bool:
    with contextlib.suppress(httpx.HTTPError), httpx.Client(timeout=patience) as client:
        return client.get(f"{one.url}/health").status_code == 200
    return False


def closed_after(connection: socket.socket, patience: float) -> float | None:
    """Seconds until the router ends this connection; None if it does not."""
    begin = time.monotonic()
    connection.settimeout(0.2)
    while time.monotonic() - begin < patience:
        with contextlib.suppress(TimeoutError):
            try:
                if not connection.recv(65536):
                    return time.monotonic() - begin
            except ConnectionError:
                return time.monotonic() - begin
    return None


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fl-") as name:
        folder = Path(name)
        engine = folder / "llama-server"
        engine.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {FAKE} "$@"\n')
        engine.chmod(0o755)
        for number, (what, flood) in enumerate(FLOODS.items()):
            one = router(folder / str(number), str(engine))
            try:
                with watched(one) as cost:
                    cost.answer = flood(one)
                print(f"{what}: {cost}; answered {cost.answer[:60]!r}", flush=True)
            finally:
                one.stop()
        one = router(folder / "files", str(engine), files=256)
        try:
            count, opened = silent(one, 300)
            served = is_served(one, 5.0)
            print(f"256 files, {count} silent connections: another client is {'' if served else 'not '}served")
            ended = closed_after(opened[-1], TIMEOUT + 6.0)  # the first ones have made room already
            print(f"a silent connection that did not make room ends after {ended} s")
        finally:
            one.kill()


if __name__ == "__main__":
    main()
