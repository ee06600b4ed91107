"""Traces of a real router at a collector. B-O5"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.records.record import Record
from router.telemetry.traceparent import parse, split
from router.telemetry.tracing import MAX_WAITING, Tracing, start
from tests.conftest import Starter
from tests.routers import Router, chat, environment
from tests.telemetry.collector import Collector, collecting
from tests.waiting import until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
SECRET, WORDS = "a-secret-of-the-client", "words that nobody else should read"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


def ask(router: Router, trace: str = "", path: str = "/v1/chat/completions", **more: Any) -> Any:
    body = {**chat("tiny-a"), "messages": [{"role": "user", "content": WORDS}], **more}
    headers = {"authorization": f"Bearer {SECRET}", **({"traceparent": trace} if trace else {})}
    return router.client.post(path, json=body, headers=headers)


def seen_by_engine(router: Router, trace: str) -> list[str]:
    """The `traceparent` that the engine got: the fake one repeats the heads of requests that it does not know."""
    answer = router.client.post(
        "/tokenize",
        json={"model": "tiny-a", "content": "x"},
        headers={"authorization": f"Bearer {SECRET}", "traceparent": trace},
    )
    headers = answer.json()["headers"]
    return [value for name, value in headers.items() if name.lower() == "traceparent"]


def test_a_request_has_a_span_for_each_part_of_its_time(
    routers: Starter, fake: str, tiny_models: Path, collector: Collector
) -> None:
    router = routers(
        *("--engine", fake, "--models-dir", str(tiny_models), "--api-key", SECRET, "--otel-endpoint", collector.url),
        FAKE_LOAD_SECONDS="0.3",
        FAKE_CHUNK_SECONDS="0.05",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
        OTEL_EXPORTER_OTLP_HEADERS="x-tenant=one",
    )
    with router.client.stream(
        "POST",
        "/v1/chat/completions",
        json={**chat("tiny-a", 6, stream=True), "messages": [{"role": "user", "content": WORDS}]},
        headers={"authorization": f"Bearer {SECRET}", "traceparent": SAMPLED, "x-request-id": "r-1"},
    ) as response:
        response.read()
    spans = until(lambda: found if len(found := collector.of(TRACE)) >= 4 else None)
    whole = spans["/v1/chat/completions"]
    parts = [spans[name] for name in ("load", "prompt", "generate")]
    assert whole.parent == PARENT
    assert {part.parent for part in spans.values()} == {PARENT, whole.span}
    assert whole.begin <= parts[0].begin <= parts[1].begin <= parts[2].begin <= whole.end
    assert parts[0].end - parts[0].begin >= 0.2
    assert (whole.kind, whole.status) == (2, 0)  # a server's, unset
    assert whole.attributes["gen_ai.request.model"] == "tiny-a"
    assert whole.attributes["llama_router.request_id"] == "r-1"
    assert whole.resource["service.name"] == "llama-router"
    assert whole.resource["deployment.environment"] == "test"
    assert collector.paths[0] == "/v1/traces"
    assert collector.headers[0]["x-tenant"] == "one"
    for body in collector.bodies:
        assert SECRET.encode() not in body
        assert WORDS.encode() not in body
    # A short request takes the fast path, and has its span all the same.
    for _ in range(3):
        assert ask(router).status_code == 200
    until(lambda: sum(span.name == "/v1/chat/completions" for span in collector.spans) == 4)
    assert len({span.trace for span in collector.spans}) == 4
    assert ask(router, model="nobody").status_code == 404
    wrong = until(lambda: [span for span in collector.spans if "error.type" in span.attributes])
    assert wrong[0].attributes["http.response.status_code"] == 404


def test_the_engine_gets_the_span_of_the_router(
    routers: Starter, fake: str, tiny_models: Path, collector: Collector
) -> None:
    router = routers(
        *("--engine", fake, "--models-dir", str(tiny_models), "--api-key", SECRET, "--otel-endpoint", collector.url)
    )
    assert ask(router).status_code == 200
    for _ in range(2):
        [got] = seen_by_engine(router, SAMPLED)
        theirs = parse(got)
        assert theirs is not None
        assert f"{theirs.trace:032x}" == TRACE
        name = f"{theirs.span:016x}"
        until(lambda name=name: name in [each.span for each in collector.spans])  # type: ignore[misc]
        assert {each.parent for each in collector.spans if each.span == name} == {PARENT}
    [got] = seen_by_engine(router, UNSAMPLED)
    assert got.startswith(f"00-{TRACE}-")
    assert got.endswith("-00")
    [got] = seen_by_engine(router, "nonsense")
    assert parse(got)
    assert ask(router).status_code == 200
    until(lambda: collector.spans[-1].name != "/tokenize")
    assert not [span for span in collector.spans if span.span == got.split("-")[2] and span.parent == PARENT]
    assert sum(span.trace == TRACE and span.name == "/tokenize" for span in collector.spans) == 2


def test_without_a_collector_the_header_goes_on_as_it_came(routers: Starter, fake: str, tiny_models: Path) -> None:
    router = routers("--engine", fake, "--models-dir", str(tiny_models), "--api-key", SECRET)
    assert ask(router).status_code == 200
    for trace in (SAMPLED, UNSAMPLED, "nonsense", "cc-odd"):
        assert seen_by_engine(router, trace) == [trace]


@pytest.mark.parametrize("kind", ["dead", "slow", "angry"])
def test_a_collector_that_takes_nothing_costs_nothing(
    routers: Starter, fake: str, tiny_models: Path, collector: Collector, kind: str
) -> None:
    url = collector.url
    if kind == "dead":
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            url = f"http://user:password@127.0.0.1:{sock.getsockname()[1]}"
    elif kind == "slow":
        collector.may_answer.clear()
    else:
        collector.status = 400
    router = routers(
        *("--engine", fake, "--models-dir", str(tiny_models), "--api-key", SECRET),
        LLAMA_ROUTER_OTEL_ENDPOINT=url,
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    for _ in range(5):
        assert ask(router).status_code == 200
    until(lambda: "traces are lost on their way to" in router.log)
    for _ in range(20):
        assert ask(router).status_code == 200
    assert router.log.count("traces are lost") == 1
    assert "password@" not in router.log
    if kind == "angry":
        collector.status = 200
        ask(router)
        until(lambda: ask(router) and "traces arrive at" in router.log)
    assert router.stop() == 0


def test_a_full_queue_loses_spans_and_says_so_once(
    collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.may_answer.clear()
    tracing = Tracing(collector.url)
    try:
        for number in range(MAX_WAITING * 3):
            tracing.end(Record(str(number), 0.0, status=200, trace=tracing.begin("")))
        assert f"{MAX_WAITING} waiting" in repr(tracing)
        collector.may_answer.set()
        until(lambda: len(collector.spans) >= MAX_WAITING)
        until(lambda: any("are lost" in record.getMessage() for record in caplog.records))
        assert len({span.trace for span in collector.spans}) == len(collector.spans)
    finally:
        tracing.close()
    assert sum("are lost on their way" in record.getMessage() for record in caplog.records) == 1


def test_what_is_left_is_sent_at_the_end(collector: Collector) -> None:
    tracing = Tracing(collector.url)
    tracing.end(Record("r", 0.0, path="/last", status=200, trace=tracing.begin("")))
    tracing.close()
    assert [span.name for span in collector.spans] == ["/last"]


def test_the_sampler_of_the_variables_holds(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    tracing = Tracing(collector.url)
    try:
        for came, ends in (("", "-00"), (SAMPLED, "-01"), (UNSAMPLED, "-00")):
            assert split(tracing.begin(came))[1].endswith(ends)
    finally:
        tracing.close()


def test_who_wants_traces(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start(None, {}) is None
    assert start(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_EXPORTER": "none"}) is None
    assert start(collector.url, {"OTEL_SDK_DISABLED": "true"}) is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    for wanted in (
        start(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}),
        start(f"{collector.url}/v1/traces/", {}),
    ):
        assert wanted is not None
        wanted.end(Record("r", 0.0, path="/x", status=200, trace=wanted.begin("")))
        wanted.close()
    assert {path.rstrip("/") for path in collector.paths} == {"/v1/traces"}


WITHOUT = "import sys; sys.modules['opentelemetry'] = None; from router.__main__ import main; sys.exit(main())"


def test_without_the_extra_it_is_named(tmp_path: Path, fake: str, tiny_models: Path) -> None:
    words = [sys.executable, "-c", WITHOUT, "--engine", fake, "--models-dir", str(tiny_models), "--port", "0"]
    flag = ["--otel-endpoint", "http://127.0.0.1:1"]
    done = subprocess.run(
        [*words, *flag],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(tmp_path),
        check=False,
    )
    assert done.returncode == 2
    assert "pip install llama-router[otel]" in done.stderr
    done = subprocess.run(
        [*words, "--otel-endpoint", "localhost"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        env=environment(tmp_path), check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--otel-endpoint takes a URL" in done.stderr


def test_nothing_is_loaded_without_a_collector() -> None:
    code = (
        "import router.serve, sys, json; print(json.dumps([name for name in sys.modules if 'opentelemetry' in name]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == []
