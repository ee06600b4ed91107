"""A request as spans: which parts its time has, and what is told of it. B-O5"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.records.record import Record
from router.telemetry.spans import request_of
from router.telemetry.traceparent import TraceParent, joined, parse, split

OWN = TraceParent(0xABC, 0xDEF, 1)
CAME = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        CAME + "-more",  # version 00 has four fields
        "ff" + CAME[2:],
        CAME.upper(),
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        CAME[:-1],
        CAME.replace("-", "_"),
        "00-٣af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ],
)
def test_what_is_no_header_begins_a_trace(text: str) -> None:
    assert parse(text) is None


def test_a_header_is_read_and_written() -> None:
    found = parse(CAME)
    assert found == TraceParent(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, 1)
    assert str(found) == CAME
    later = parse("cc" + CAME[2:-2] + "00-what-is-to-come")
    assert later is not None
    assert not later.is_sampled
    assert split(joined(CAME, OWN)) == (CAME, str(OWN))
    assert split(CAME) == (CAME, "")


def record(**more: object) -> Record:
    known = {"trace": joined(CAME, OWN), "at": 100.0, "seconds": 10.0, "path": "/v1/chat/completions", "status": 200}
    return Record("r-1", **{**known, **more})  # type: ignore[arg-type]


def test_the_parts_of_a_stream() -> None:
    found = request_of(record(waited=5.0, load=3.0, ttft=6.0, stream=True, prompt=20, generated=7, model="tiny"))
    assert found is not None
    assert [(span.name, span.begin, span.end) for span in found.parts] == [
        ("wait", 100, 102),
        ("load", 102, 105),
        ("prompt", 105, 106),
        ("generate", 106, 110),
    ]
    assert (found.whole.name, found.whole.begin, found.whole.end) == ("/v1/chat/completions", 100, 110)
    assert (found.own, found.parent, found.error) == (OWN, parse(CAME), "")
    told = found.whole.attributes
    assert (told["gen_ai.request.model"], told["gen_ai.operation.name"]) == ("tiny", "chat")
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (20, 7)
    assert (told["http.response.status_code"], told["llama_router.request_id"]) == (200, "r-1")


def test_an_answer_that_came_whole_is_divided_by_its_counts() -> None:
    found = request_of(record(ttft=10.0, prompt_seconds=2.0, generation_seconds=7.0))
    assert found is not None
    assert [(span.name, span.begin, span.end) for span in found.parts] == [("prompt", 100, 103), ("generate", 103, 110)]


def test_a_request_that_failed() -> None:
    found = request_of(record(status=503, error="queue_timeout", waited=10.0, phase="failed", asked="who"))
    assert found is not None
    assert found.error == "queue_timeout"
    assert [span.name for span in found.parts] == ["wait"]
    assert found.whole.attributes["error.type"] == "queue_timeout"
    assert found.whole.attributes["gen_ai.request.model"] == "who"
    theirs = request_of(record(status=404, error="unknown_model"))
    assert theirs is not None
    assert theirs.error == ""  # no fault of the router's


def test_what_is_not_traced_or_not_wanted_has_no_spans() -> None:
    assert request_of(record(trace=CAME)) is None
    assert request_of(record(trace="")) is None
    assert request_of(record(trace=joined(CAME, TraceParent(1, 2, 0)))) is None


TIMES = st.floats(0, 1000)


@given(TIMES, TIMES, TIMES, st.none() | TIMES, TIMES, st.booleans())
def test_parts_lie_within_the_whole_and_follow_each_other(
    waited: float, load: float, seconds: float, ttft: float | None, generation: float, stream: bool
) -> None:
    waited, load = min(waited, seconds), min(load, waited, seconds)
    found = request_of(
        record(waited=waited, load=load, seconds=seconds, ttft=ttft, generation_seconds=generation, stream=stream)
    )
    assert found is not None
    at = found.whole.begin
    for span in found.parts:
        assert at - 1e-9 <= span.begin <= span.end <= found.whole.end + 1e-9
        at = span.end
