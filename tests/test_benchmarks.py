"""The benchmarks run: their parts that need no other program, as small as can be. What they find is not judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

import pytest

from tests.benchmarks import behaviour, events, listings, plain, readahead, streams, traces
from tests.benchmarks.report import ENGINE, OURS, Report, Row, Target, ratios
from tests.benchmarks.stage import Stage, ask, question
from tests.benchmarks.traces import DEVICE


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


def test_the_engine_and_the_load_generator_agree(stage: Stage) -> None:
    peer = stage.direct()
    plain_run = stage.load(peer, 4, 0.1, question(), warmup=0.05)
    assert plain_run["requests"] == plain_run["latency"]["count"] > 0
    streamed = stage.load(peer, 4, 0.2, question(stream=True, max_tokens=10, pace=500), warmup=0.05)
    assert streamed["events"] == streamed["transit"]["count"] > streamed["jitter"]["count"] > 0


def test_a_router_is_measured_beside_its_engine(stage: Stage) -> None:
    peers = [stage.direct(), stage.ours()]
    ask(peers[1].port)
    found = plain.in_turns(stage, peers, 2, 0.3, question(), warmup=0.05)
    assert set(found) == {ENGINE, OURS}
    assert any(run["requests"] for run in found[OURS])
    assert peers[1].rss() > 10


@pytest.mark.parametrize("api", streams.TRANSLATED)
def test_a_translated_stream_is_measured_beside_one_passed_through(stage: Stage, api: str) -> None:
    ours = stage.ours()
    ask(ours.port)
    row = streams.translated(stage, ours, 2, 0.3, api, streams.TRANSLATED[api])
    assert set(row.values) == {OURS, streams.PASSED}
    assert all(rate > 0 for rate in row.values.values())


def test_scheduler() -> None:
    rows = list(events.measure(0.05, scales=(0.5, 1.0), size=0.02))
    assert {"acquire: mean", "probed: mean", "release: mean"} <= {row.measure for row in rows}
    assert rows[-1].measure == "growth of the mean"


def test_listing(stage: Stage) -> None:
    rows = list(listings.measure(stage, 0.03, counts=(5,)))
    assert [row.measure for row in rows[:3]] == ["first", "unchanged", "while one loads"]


def test_read_ahead(stage: Stage) -> None:
    missing: list[str] = []
    rows = list(readahead.measure(stage, 0, missing, width=256, drain=0.1, rounds=1))
    assert len(rows) == (0 if missing else 3)
    assert all(row.values[OURS] > 0 for row in rows)


@pytest.mark.parametrize("make", [traces.zipf, traces.sessions, traces.agents])
def test_traces(make: traces.Maker) -> None:
    trace = make(Random(1), 60)
    outcomes = {order: traces.simulate(trace, order) for order in traces.ORDERS}
    assert all(len(outcome.waits) + outcome.refused == len(trace.requests) for outcome in outcomes.values())
    once = sum({request.model: trace.sizes[request.model] for request in trace.requests}.values())
    assert once <= traces.bound(trace) <= sum(trace.sizes[request.model] for request in trace.requests)


def test_what_never_pauses_is_loaded_once() -> None:
    sizes = {"a": DEVICE.total // 2, "b": DEVICE.total // 4}
    asked = tuple(traces.Request(20.0 * n, "ab"[n % 2], 1.0) for n in range(10))
    trace = traces.Trace("two that fit", sizes, asked)
    assert traces.bound(trace) == sum(sizes.values()) == traces.simulate(trace, OURS).loaded


def test_two_that_do_not_fit() -> None:
    sizes = dict.fromkeys("ab", DEVICE.total * 5 // 6)
    trace = traces.Trace("in turns", sizes, tuple(traces.Request(200.0 * n, "ab"[n % 2], 1.0) for n in range(20)))
    assert traces.simulate(trace, OURS).loaded == 20 * sizes["a"]
    # 20 times the memory there is, and 18 pauses that each take twice the size: 12 are bridged, 6 + 2 loads are left.
    assert traces.bound(trace) == pytest.approx(8 * sizes["a"])


def test_report() -> None:
    row = Row("part", "case", "time", "ms", {OURS: 3.0, ENGINE: 2.0}, (Target("below 2 ms", False),))
    found = Report({"cores": "2"}, [row], ["nginx: apt-get install nginx-light"])
    assert "(1.50x)" in found.text()
    assert "[below 2 ms: MISSED]" in found.text()
    assert "not measured: nginx" in found.text()
    told = json.loads(json.dumps(found.json()))
    assert told["rows"][0]["machine"] == {"cores": "2"}
    assert told["rows"][0]["ratios"] == {ENGINE: 1.5}
    assert ratios({ENGINE: 1.0}) == {}


@pytest.mark.parametrize(
    ("body", "is_well_formed"),
    [
        (b'data: {"a": 1}\n\ndata: [DONE]\n\n', True),
        (b'data: {"a": 1}\n\ndata: {"error": {"code": 502}}\n\n', True),
        (b'event: error\ndata: {"error": {}}\n\n', True),
        (b'data: {"a": 1}\n\n', False),
        (b'data: {"a": 1}\n\nproxy error: Failed to read connection', False),
        (b'data: {"a": 1}\n\ndata: {"err', False),
        (b"", False),
    ],
)
def test_streams_that_end_well_and_badly(body: bytes, is_well_formed: bool) -> None:
    plain_answer = b"HTTP/1.1 200 OK\r\n\r\n" + body
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:]) if part)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    assert behaviour.is_well_formed(plain_answer) is is_well_formed
    assert behaviour.is_well_formed(chunked + b"0\r\n\r\n") is is_well_formed
    assert not behaviour.is_well_formed(chunked), "an answer without its last chunk was cut"
