"""(f) From the start to listening, and the memory of the process: idle, and with many streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from statistics import median

import psutil

from tests.benchmarks.listings import write_preset
from tests.benchmarks.report import OURS, Row, Target
from tests.benchmarks.stage import PATIENCE, Absent, Peer, Stage, ask, question

STARTS = 3
STREAMS = 256


def measure(stage: Stage, seconds: float, missing: list[str], streams: int = STREAMS) -> Iterator[Row]:
    engine = stage.engine()
    makers: list[Callable[[], Peer]] = [
        *(stage.ours, stage.nginx, lambda: stage.llama_cpp(engine=engine), stage.llama_swap),
        lambda: stage.ollama(has_models=False),
    ]
    peers: list[Peer] = []
    starts = {}
    for make in makers:
        try:
            took = [_timed(make, peers) for _ in range(STARTS)]
        except Absent as exc:
            missing.append(str(exc))
        else:
            starts[peers[-1].name] = median(took)
    targets = (Target("within 0.5 s", starts[OURS] <= 0.5),)
    yield Row("process", "three models", "start to listening", "s", starts, targets)
    preset = write_preset(stage, 500)
    many = median(_alone(lambda: stage.ours("--models-preset", str(preset))) for _ in range(STARTS))
    yield Row("process", "500 models", "start to listening", "s", {OURS: many}, (Target("within 0.5 s", many <= 0.5),))

    last = list({peer.name: peer for peer in peers}.values())
    idle = {peer.name: peer.rss() for peer in last}
    yield Row("process", "idle", "RSS", "MB", idle, (Target("below 80 MB", idle[OURS] < 80),))
    last = [peer for peer in last if peer.keeps_pace]  # the others have no streams of ours
    for peer in last:
        ask(peer.port)
    yield Row(
        "process", f"{streams} streams", "RSS", "MB", {peer.name: _busy(stage, peer, streams, seconds) for peer in last}
    )


def _timed(make: Callable[[], Peer], peers: list[Peer]) -> float:
    began = time.perf_counter()
    peers.append(make())
    return time.perf_counter() - began


def _alone(make: Callable[[], Peer]) -> float:
    """Without it when the next one starts: it would estimate its models just then, on the same CPU."""
    peers: list[Peer] = []
    took = _timed(make, peers)
    own = psutil.Process(*peers[0].pids)
    own.terminate()
    own.wait(PATIENCE)
    return took


def _busy(stage: Stage, peer: Peer, streams: int, seconds: float) -> float:
    """The most while it streams, MB."""
    body = question(stream=True, max_tokens=50, pace=50)
    load = threading.Thread(target=stage.load, args=(peer, streams, seconds, body))
    load.start()
    most = peer.rss()
    while load.is_alive():
        load.join(0.05)
        most = max(most, peer.rss())
    return most
