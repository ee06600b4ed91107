"""(b) Streams of server-sent events: time to the first token, jitter between tokens, tokens in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.plain import added, in_turns, middle
from tests.benchmarks.report import NGINX, OURS, Row, Target
from tests.benchmarks.stage import MODEL, Peer, Stage, question

PASSED = "passed through"
TRANSLATED_SHARE = 0.75  # of the throughput of a stream that is passed through
TOKENS = 500  # of one stream that is as fast as it can be
STREAMS = (1, 64, 256)
ROUNDS = 3  # longer than those of plain requests: all streams of the warm-up end, and begin again, at the same time
PACE = 50  # tokens a second


def measure(stage: Stage, seconds: float, missing: list[str], streams: Sequence[int] = STREAMS) -> Iterator[Row]:
    peers = stage.peers(missing)
    for count in streams:
        # The streams last as long as the warm-up, so that they do not all begin at the same time.
        paced = question(stream=True, max_tokens=max(2, int(PACE * seconds / 3)), pace=PACE)
        yield from _paced(count, in_turns(stage, peers, count, 1.5 * seconds, paced, warmup=seconds / 3, rounds=ROUNDS))
        flat_out = question(stream=True, max_tokens=TOKENS)
        yield from _flat_out(count, in_turns(stage, peers, count, seconds, flat_out, rounds=ROUNDS))
        ours = next(peer for peer in peers if peer.name == OURS)
        for name, api in TRANSLATED.items():
            yield translated(stage, ours, count, seconds / 2, name, api)
        if count > 1:
            yield token_by_token(stage, ours, count, seconds / 2)
    real = stage.real_peers(missing)
    for count in streams if real else ():
        found = in_turns(stage, real, count, seconds, question(stream=True, max_tokens=100), rounds=ROUNDS)
        case = f"{count} flat out, real engines"
        yield _rate(case, found, 0)
        first = {who: middle(runs, "first", "p50") for who, runs in found.items()}
        yield Row("streams", case, "first token p50", "us", first)


@dataclass(frozen=True, slots=True)
class Api:
    """An API whose streams are made of those of a chat. `fields` say a text, and ask for so many tokens."""

    path: str
    fields: Callable[[str, int], dict[str, Any]]

    def question(self, tokens: int, pace: int = 0) -> dict[str, Any]:
        """`pace`: tokens a second, 0 for as fast as possible. The engine reads it in the text: not all APIs pass on
        fields that they do not know."""
        text = f"How many people live in France? pace: {pace}"
        return {"model": MODEL, "stream": True, **self.fields(text, tokens)}


def _chat(text: str, tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}


def _responses(text: str, tokens: int) -> dict[str, Any]:
    return {"input": text, "max_output_tokens": tokens, "store": False}


def _ollama_chat(text: str, tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "options": {"num_predict": tokens}}


def _ollama_generate(text: str, tokens: int) -> dict[str, Any]:
    return {"prompt": text, "options": {"num_predict": tokens}}


CHAT = Api("/v1/chat/completions", _chat)  # passed through
TRANSLATED = {
    "Messages": Api("/v1/messages", _chat),
    "Responses": Api("/v1/responses", _responses),
    "Ollama chat": Api("/api/chat", _ollama_chat),
    "Ollama generate": Api("/api/generate", _ollama_generate),
}


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


def translated(stage: Stage, ours: Peer, count: int, seconds: float, name: str, api: Api) -> Row:
    """Streams of another API beside those of chat completions, which are passed through; both over this router."""
    found: dict[str, list[dict[str, Any]]] = {OURS: [], PASSED: []}
    for _ in range(ROUNDS):
        for who, each in ((OURS, api), (PASSED, CHAT)):
            found[who].append(stage.load(ours, count, seconds / ROUNDS, each.question(TOKENS), path=each.path))
    rates = {who: middle(runs, "events") / runs[0]["seconds"] for who, runs in found.items()}
    reached = rates[OURS] >= TRANSLATED_SHARE * rates[PASSED]
    target = Target(f"at least {TRANSLATED_SHARE} of what is passed through", reached)
    return Row("streams", f"{count} flat out, {name}", "tokens", "1/s", rates, (target,))


def token_by_token(stage: Stage, ours: Peer, count: int, seconds: float) -> Row:
    """What each API costs where tokens come one at a time, as those of a real model do."""
    asked = {PASSED: CHAT, **TRANSLATED}
    used = {}
    for name, api in asked.items():
        tokens = max(2, int(PACE * seconds / 3))
        told = stage.load(ours, count, seconds, api.question(tokens, PACE), warmup=seconds / 3, path=api.path)
        used[name] = 1e6 * told["cpu"] / max(1.0, told["events"])
    return Row("streams", f"{count} x {PACE} tokens/s, by API", "CPU a token", "us", used)


def _rate(case: str, found: dict[str, list[dict[str, Any]]], count: int) -> Row:
    rates = {who: middle(runs, "events") / runs[0]["seconds"] for who, runs in found.items()}
    targets = []
    if count == 64 and NGINX in rates:
        targets.append(Target("at least 0.9 of nginx", rates[OURS] >= 0.9 * rates[NGINX]))
    return Row("streams", case, "tokens", "1/s", rates, tuple(targets))
