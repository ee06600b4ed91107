"""(a) Small requests: what is added to their time, and how many there are in a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from tests.benchmarks.report import ENGINE, LLAMA_CPP, NGINX, OURS, Row, Target
from tests.benchmarks.stage import Peer, Stage, question

CONNECTIONS = (1, 16, 64)
ROUNDS = 7


def measure(
    stage: Stage, seconds: float, missing: list[str], connections: Sequence[int] = CONNECTIONS
) -> Iterator[Row]:
    peers = stage.peers(missing)
    for count in connections:
        yield from _rows(count, in_turns(stage, peers, count, seconds, question()))
    real = stage.real_peers(missing)
    for count in connections if real else ():
        yield from _real_rows(count, in_turns(stage, real, count, seconds, question()))


def in_turns(
    stage: Stage,
    peers: Sequence[Peer],
    connections: int,
    seconds: float,
    body: dict[str, Any],
    warmup: float = 0.2,
    rounds: int = ROUNDS,
) -> dict[str, list[dict[str, Any]]]:
    """Every peer in every round, so that what else the machine does meets all of them."""
    found: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in peers}
    for _ in range(rounds):
        for peer in peers:
            found[peer.name].append(stage.load(peer, connections, seconds / rounds, body, warmup))
    return found


def middle(runs: Sequence[dict[str, Any]], *path: str) -> float:
    """The median of one figure; of what never came it is 0."""
    values = []
    for run in runs:
        value: Any = run
        for name in path:
            value = value.get(name, 0.0)
        values.append(float(value))
    return median(values)


def added(values: dict[str, float]) -> dict[str, float]:
    """What each adds to the engine."""
    return {name: value - values[ENGINE] for name, value in values.items() if name != ENGINE}


def _rows(count: int, found: dict[str, list[dict[str, Any]]]) -> Iterator[Row]:
    case = f"{count} connection{'s' if count > 1 else ''}"
    for share in ("p50", "p99"):
        times = {name: middle(runs, "latency", share) for name, runs in found.items()}
        yield Row("requests", case, f"latency {share}", "us", times)
        more = added(times)
        targets = []
        if share == "p50" and count == 1 and NGINX in more:
            targets.append(Target("at most 2.5x nginx's", more[OURS] <= 2.5 * more[NGINX]))
        yield Row("requests", case, f"added {share}", "us", more, tuple(targets))
    rates = {name: middle(runs, "requests") / runs[0]["seconds"] for name, runs in found.items()}
    targets = []
    if count == 64 and NGINX in rates:
        targets.append(Target("at least 0.4 of nginx", rates[OURS] >= 0.4 * rates[NGINX]))
    if count == 64 and LLAMA_CPP in rates:
        targets.append(Target("at least 3x llama.cpp's router", rates[OURS] >= 3 * rates[LLAMA_CPP]))
    yield Row("requests", case, "throughput", "1/s", rates, tuple(targets))
    used = {name: 1e6 * middle(runs, "cpu") / max(1.0, middle(runs, "requests")) for name, runs in found.items()}
    yield Row("requests", case, "CPU a request", "us", used)


def _real_rows(count: int, found: dict[str, list[dict[str, Any]]]) -> Iterator[Row]:
    """Whole answers of real engines: what Ollama adds cannot be told from what its engine takes."""
    case = f"{count} connection{'s' if count > 1 else ''}, real engines"
    for share in ("p50", "p99"):
        times = {name: middle(runs, "latency", share) for name, runs in found.items()}
        yield Row("requests", case, f"latency {share}", "us", times)
    rates = {name: middle(runs, "requests") / runs[0]["seconds"] for name, runs in found.items()}
    yield Row("requests", case, "throughput", "1/s", rates)
