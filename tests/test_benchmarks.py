"""The benchmarks run: their parts that need no other program, as small as can be. What they find is not judged."""

from __future__ import annotations

import json
import math
import os
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
import pytest

from tests.benchmarks import (
    behaviour,
    chart,
    dashboard,
    events,
    footprint,
    journal,
    listings,
    metrics,
    page,
    plain,
    readahead,
    restart,
    streams,
    swaps,
    traces,
)
from tests.benchmarks.report import ENGINE, LLAMA_SWAP, OLLAMA, OURS, Report, Row, Target, facts, ratios
from tests.benchmarks.stage import Absent, Stage, ask, question
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


def test_the_journal() -> None:
    rows = list(journal.measure(0.03, requests=20))
    assert [row.case for row in rows] == ["an event", "an event", "a request"]
    assert all(value > 0 for row in rows for value in row.values.values())


def test_metrics() -> None:
    rows = list(metrics.measure(0.03, models=20, used=4))
    assert [row.case for row in rows] == ["a request", "20 models, 4 used", "20 used, 4 since the last scrape"]
    assert all(value > 0 for row in rows for value in row.values.values())


def test_the_chart_shows_who_was_measured_beside_the_router() -> None:
    rows = [
        Row("requests", "64 <connections>", "requests", "/s", {OURS: 60, LLAMA_SWAP: 30, ENGINE: 100}),
        Row("behaviour", "another model", "waits", "s", {OURS: 2.0, OLLAMA: math.inf}),
        Row("scheduler", "alone", "event", "us", {OURS: 150}),
    ]
    drawn = xml.etree.ElementTree.fromstring(chart.draw(rows))
    bars = [bar.get("width") for bar in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == ["420.0", "210.0", "420.0", "420.0"]
    words = "|".join(text.text or "" for text in drawn.iter("{http://www.w3.org/2000/svg}text"))
    assert "64 <connections>|requests, /s (longer is better)|llama-router 60|llama-swap 30" in words
    assert "Ollama never" in words
    assert "alone" not in words


def test_page(stage: Stage) -> None:
    missing: list[str] = []
    rows = list(page.measure(stage, 0.2, missing, counts=(5,)))
    if missing and not os.environ.get("CI"):
        pytest.skip(missing[0])
    assert [row.measure for row in rows] == ["until models are shown", "files", "main thread", "heap"]
    assert all(row.values[OURS] > 0 for row in rows)


def test_dashboard(stage: Stage) -> None:
    rows = list(dashboard.measure(stage, 0.2, counts=(5,)))
    assert [row.unit for row in rows] == ["ms"] * 3 + ["%"] * 3


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


# Peers that are seldom on a machine where tests run: programs that speak their command line stand in for them.


@pytest.fixture
def peers_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in (("llama-swap", "stand_in_llama_swap.py"), ("ollama", "stand_in_ollama.py")):
        (tmp_path / name).symlink_to(Path(__file__).with_name(script))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


@pytest.mark.usefixtures("peers_on_path")
def test_llama_swap_takes_part_without_its_limit(stage: Stage) -> None:
    """Without `concurrencyLimit` it refuses the eleventh request, which ends the measurement with an error."""
    peer = stage.llama_swap(engine=stage.engine(pinned=False), cpu=None)
    ask(peer.port)
    found = plain.in_turns(stage, [peer], 32, 0.5, question(), warmup=0.05, rounds=1)
    assert found[LLAMA_SWAP][0]["errors"] == 0
    assert ask(peer.port, "tiny-b") > 0
    assert ask(peer.port, "tiny-a") > 0
    assert behaviour.is_cut_by_unload(peer)
    with pytest.raises(RuntimeError, match="no such model"):
        ask(peer.port, "tiny-x")
    assert behaviour.left_behind(peer) == 1


@pytest.mark.usefixtures("peers_on_path")
def test_ollama_takes_part_with_a_store_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "mine"))
    monkeypatch.setenv("OLLAMA_HOST", "192.0.2.1:1")
    monkeypatch.setenv("HOME", str(tmp_path))
    with Stage() as stage:
        peer = stage.ollama()
        store = next(stage.folder.glob("ollama*/models"))
        assert sorted(file.name for file in store.iterdir()) == ["tiny-a", "tiny-b", "tiny-c"]
        assert ask(peer.port, "tiny-b") > 0
        found = stage.load(peer, 4, 0.3, question(stream=True, max_tokens=5), warmup=0.05)
        assert found["events"] > 5
        assert behaviour.is_cut_by_unload(peer)
        assert behaviour.breaks(peer)
        assert behaviour.left_behind(peer) == 1
        other = stage.ollama(has_models=False)
        processes = [psutil.Process(*other.pids)]
    assert not any(process.is_running() for process in processes)
    assert not (tmp_path / "mine").exists()
    assert not (tmp_path / ".ollama").exists()


@pytest.mark.usefixtures("peers_on_path")
def test_swaps_of_all_peers_that_are_here(stage: Stage) -> None:
    missing: list[str] = []
    engine = stage.engine(pinned=False)
    found = {peer.name: peer for peer in swaps._routers(stage, engine, engine, missing)}
    assert {OURS, LLAMA_SWAP} <= set(found)
    assert OLLAMA not in found, "it cannot have our engine"
    assert swaps._swap(found[LLAMA_SWAP].port) > 0
    assert "ollama" in facts(None)
    assert "llama-swap" in facts(None)


@pytest.mark.usefixtures("peers_on_path")
def test_real_engines_beside_ollama(stage: Stage) -> None:
    missing: list[str] = []
    real = stage.real_peers(missing)
    assert ([peer.name for peer in real], missing) == ([OURS, OLLAMA], [])
    rows = list(plain._real_rows(2, plain.in_turns(stage, real, 2, 0.4, question(), warmup=0.05, rounds=1)))
    assert all(value > 0 for row in rows for value in row.values.values())
    found = plain.in_turns(stage, real, 2, 0.6, question(stream=True, max_tokens=5), warmup=0.05, rounds=1)
    assert all(run["events"] > 5 and run["first"]["p50"] > 0 for runs in found.values() for run in runs)


def test_peers_that_are_not_here_are_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for make, name in ((stage.llama_swap, "llama-swap"), (stage.ollama, "Ollama")):
        with pytest.raises(Absent, match=f"{name} is not here"):
            make(engine=Path("/nonexistent")) if make == stage.llama_swap else make()
    missing: list[str] = []
    assert stage.real_peers(missing) == []
    assert any("not here" in reason or "real engines" in reason for reason in missing)
    assert "not measured: " in Report({}, [], missing).text()


@pytest.mark.usefixtures("peers_on_path")
def test_start_and_memory_of_all_peers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "STARTS", 1)
    rows = list(footprint.measure(stage, 0.2, [], streams=4))
    starts = next(row for row in rows if row.measure == "start to listening")
    assert {OURS, LLAMA_SWAP, OLLAMA} <= set(starts.values)
    assert OLLAMA not in rows[-1].values, "its engine is a real one"
    assert LLAMA_SWAP in rows[-1].values


def test_restart(stage: Stage) -> None:
    rows = list(restart.measure(stage, 0.1, [], restarts=1))
    assert [row.measure for row in rows] == ["failed", "longest wait"] * 2
    assert all(set(row.values) == {OURS, restart.ALONE} for row in rows)
