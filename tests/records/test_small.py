"""Small requests, of which sums and records are made late: nobody sees a difference. B-O3"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from random import Random

import msgspec
import pytest

from router.metrics.exposition import TEXT
from router.metrics.names import Metrics
from router.metrics.tally import Tally
from router.records.record import Record
from router.records.records import MAX_ENDED, Records
from router.records.small import MOST, Ended, Kind, Sums
from tests.metrics.scrapes import read


@dataclass(frozen=True)
class Head:
    shown_path: str = "/v1/chat/completions"
    agent: str = "curl/8"
    trace: str = ""


HEAD = Head()
KIND = Kind(HEAD, "a", "openai", False)


def some(random: Random) -> Ended:
    """What a request may have left."""
    timings = {"cache_n": 3, "prompt_n": 4, "prompt_ms": 20.0, "predicted_n": 6, "predicted_ms": 3000.0}
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}
    answer = random.choice(({}, {"usage": usage}, {"usage": usage, "timings": timings}, {"timings": {"prompt_n": 9}}))
    body = random.choice((b"", b"no JSON", json.dumps({"text": "x" * random.choice((3, 9000)), **answer}).encode()))
    began = time.monotonic() - random.random()
    dialect, is_background = random.choice(("openai", "anthropic")), random.random() < 0.2
    return (
        Kind(HEAD, random.choice("ab"), dialect, is_background),
        random.choice((b"%016x" % random.getrandbits(60), b"a\tb", b"mine")),
        "127.0.0.1",
        random.choice((200, 200, 201, 404)),
        body,
        began,
        began + random.random() * 0.1,
    )


@dataclass
class Told:
    """What was told of some requests: the records that are kept, those that a subscriber got, the metrics, and the
    tokens that count for the speed. `wants_each`: the subscriber wants the record of each, not of errors alone."""

    requests: list[Ended]
    wants_each: bool

    async def run(self) -> Told:
        records, metrics, self.seen = Records(), Metrics(), list[Record]()
        tally = Tally(metrics, lambda name: name == "a")
        records.subscribe(tally.add, tally.add_sums)
        records.subscribe(self.seen.append, None if self.wants_each else lambda sums: None)
        for request in self.requests:
            records.small.end(request)
        records.settle()
        self.kept, self.metrics = list(records.ended()), samples(metrics)
        self.speed = dict(records.speed.count((), 1.0))
        return self


def samples(metrics: Metrics) -> dict[object, float]:
    found = read(b"".join(metrics.registry.pieces(TEXT)).decode(), TEXT)
    return {(sample.name, *sorted(sample.labels.items())): sample.value for sample in found}


def comparable(records: list[Record]) -> list[Record]:
    return [msgspec.structs.replace(record, at=round(record.at)) for record in records]


@pytest.mark.parametrize("seed", range(20))
def test_sums_are_the_sums_of_the_records(seed: int) -> None:
    random = Random(seed)
    requests = [some(random) for _ in range(random.randrange(1, 3 * MOST))]
    errors, each = (asyncio.run(Told(requests, wants_each).run()) for wants_each in (False, True))
    assert comparable(each.seen) == comparable(each.kept[::-1]) == comparable(errors.kept[::-1])
    assert [record.model for record in each.seen] == [request[0].model for request in requests]
    assert [record.error for record in errors.seen] == ["engine_error"] * sum(request[3] >= 400 for request in requests)
    metrics = Metrics()
    one_by_one = Tally(metrics, lambda name: name == "a")
    for record in each.seen:
        one_by_one.add(record)
    assert each.metrics == errors.metrics
    assert each.metrics == pytest.approx(samples(metrics))
    assert errors.speed == each.speed
    assert each.speed == pytest.approx(last_second(each.seen))


def last_second(records: list[Record]) -> dict[str, float]:
    """How many tokens of these answers were generated in the last second of each."""
    found: dict[str, float] = {}
    for record in records:
        if record.generated and record.error is None:
            found[record.model] = found.get(record.model, 0) + record.generated / max(1, record.generation_seconds)
    return found


def test_only_the_last_are_kept_and_long_answers_are_let_go() -> None:
    async def run() -> list[object]:
        records = Records()
        for number in range(2 * MAX_ENDED):
            records.small.end((KIND, b"%d" % number, "", 200, b"x" * 100_000, 1.0, 2.0))
        records.settle()
        entries: list[object] = [*records._ended]
        assert [record.id for record in records.ended()] == [
            str(n) for n in range(2 * MAX_ENDED - 1, MAX_ENDED - 1, -1)
        ]
        return entries

    assert all(isinstance(entry, Record) for entry in asyncio.run(run())), "a body of 100 kB is held"


def test_a_subscriber_that_fails_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> list[Sums]:
        records, found = Records(), list[Sums]()
        records.subscribe(lambda record: None, lambda sums: 1 / 0)  # type: ignore[arg-type]
        unsubscribe = records.subscribe(lambda record: None, found.append)
        for _ in range(2):
            records.small.end((KIND, b"1", "", 200, b"", 1.0, 2.0))
            records.settle()
            unsubscribe()
        return found

    assert [len(sums.seconds) for sums in asyncio.run(run())] == [1]
    assert "a defect in the router" in caplog.text
