"""(b) Streams of server-sent events: time to the first token, jitter between tokens, tokens in a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tests.benchmarks.plain import added, in_turns, middle
from tests.benchmarks.report import NGINX, OURS, Row, Target
from tests.benchmarks.stage import Peer, Stage, question

TRANSLATED = {"Messages": "/v1/messages"}  # APIs whose streams are made of those of a chat
PASSED = "passed through"
STREAMS = (1, 64, 256)
ROUNDS = 3  # longer than those of plain requests: all streams of the warm-up end, and begin again, at the same time
PACE = 50  # tokens a second


def measure(stage: Stage, seconds: float, missing: list[str], streams: Sequence[int] = STREAMS) -> Iterator[Row]:
    peers = stage.peers(missing)
    for count in streams:
        # The streams last as long as the warm-up, so that they do not all begin at the same time.
        paced = question(stream=True, max_tokens=max(2, int(PACE * seconds / 3)), pace=PACE)
        yield from _paced(count, in_turns(stage, peers, count, 1.5 * seconds, paced, warmup=seconds / 3, rounds=ROUNDS))
        flat_out = question(stream=True, max_tokens=500)
        yield from _flat_out(count, in_turns(stage, peers, count, seconds, flat_out, rounds=ROUNDS))
        ours = next(peer for peer in peers if peer.name == OURS)
        for api, path in TRANSLATED.items():
            yield translated(stage, ours, count, seconds, api, path)


def _paced(count: int, found: dict[str, list[dict[str, Any]]]) -> Iterator[Row]:
    case = f"{count} x {PACE} tokens/s"
    for name, measure in (("first", "added to first token"), ("transit", "added to a token")):
        for share in ("p50", "p99"):
            values = added({who: middle(runs, name, share) for who, runs in found.items()})
            yield Row("streams", case, f"{measure} {share}", "us", values)
    for share in ("p50", "p99"):
        values = added({who: middle(runs, "jitter", share) for who, runs in found.items()})
        targets = [Target("below 2 ms", values[OURS] < 2000)] if (count, share) == (64, "p99") else []
        yield Row("streams", case, f"added jitter {share}", "us", values, tuple(targets))
    yield _rate(case, found, count)
    if count == 1:
        return  # too little to be seen
    used = {who: 1e6 * middle(runs, "cpu") / max(1.0, middle(runs, "events")) for who, runs in found.items()}
    yield Row("streams", case, "CPU a token", "us", used)


def _flat_out(count: int, found: dict[str, list[dict[str, Any]]]) -> Iterator[Row]:
    yield _rate(f"{count} flat out", found, count)


def translated(stage: Stage, ours: Peer, count: int, seconds: float, api: str, path: str) -> Row:
    """Streams of another API beside those of chat completions, which are passed through; both over this router."""
    paths = {OURS: path, PASSED: "/v1/chat/completions"}
    found: dict[str, list[dict[str, Any]]] = {who: [] for who in paths}
    body = question(stream=True, max_tokens=500)
    for _ in range(ROUNDS):
        for who, each in paths.items():
            found[who].append(stage.load(ours, count, seconds / ROUNDS, body, path=each))
    rates = {who: middle(runs, "events") / runs[0]["seconds"] for who, runs in found.items()}
    target = Target("at least 0.75 of what is passed through", rates[OURS] >= 0.75 * rates[PASSED])
    return Row("streams", f"{count} flat out, {api}", "tokens", "1/s", rates, (target,))


def _rate(case: str, found: dict[str, list[dict[str, Any]]], count: int) -> Row:
    rates = {who: middle(runs, "events") / runs[0]["seconds"] for who, runs in found.items()}
    targets = []
    if count == 64 and NGINX in rates:
        targets.append(Target("at least 0.9 of nginx", rates[OURS] >= 0.9 * rates[NGINX]))
    return Row("streams", case, "tokens", "1/s", rates, tuple(targets))
