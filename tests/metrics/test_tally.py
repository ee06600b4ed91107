"""What events and records add to the metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import errors
from router.events import kinds
from router.events.journal import Journal
from router.events.kinds import AnyEvent
from router.metrics.exposition import OPENMETRICS, TEXT
from router.metrics.names import Metrics
from router.metrics.tally import MAX_KINDS, REFUSALS, REFUSALS_OF_REQUESTS, Tally
from router.records.record import Record
from router.scheduling.causes import Cause
from tests.metrics.scrapes import Sample, find, read

GIB = 2**30
P = "llama_router_"


@dataclass
class Heard:
    """A tally with the models a and b."""

    models: set[str] = field(default_factory=lambda: {"a", "b"})

    def __post_init__(self) -> None:
        self.metrics, self.journal = Metrics(), Journal()
        self.tally = Tally(self.metrics, lambda name: name in self.models)
        self.tally.listen(self.journal)

    def samples(self) -> list[Sample]:
        return read(b"".join(self.metrics.registry.pieces(TEXT)).decode(), TEXT)

    def value(self, name: str, **labels: str) -> float:
        return find(self.samples(), P + name, **labels)

    def emit(self, *events: AnyEvent) -> None:
        for event in events:
            self.journal.emit(event)


@pytest.fixture
def heard() -> Heard:
    return Heard()


def served(model: str = "a", **more: Any) -> Record:
    usual: dict[str, Any] = {"dialect": "openai", "status": 200, "seconds": 3.0, "ttft": 0.5, "stream": True}
    return Record("id", 0.0, model, **{**usual, **more})


def start(model: str, run: int = 1) -> kinds.Start:
    return kinds.Start(model, run, {"local/CUDA0": GIB})


def stop(model: str, cause: Cause, run: int = 1) -> AnyEvent:
    return kinds.Stop(model, run, cause, "", {}, None)


def test_a_request_counts_with_all_it_took(heard: Heard) -> None:
    tokens: dict[str, Any] = {
        "prompt": 20,
        "cached": 5,
        "generated": 7,
        "prompt_seconds": 0.25,
        "generation_seconds": 2.0,
    }
    heard.tally.add(served(waited=1.5, **tokens))
    heard.tally.add(served(background=True, dialect="ollama"))
    assert heard.value("requests_total", model="a", dialect="openai", code="200", background="false") == 1
    assert heard.value("requests_total", model="a", dialect="ollama", code="200", background="true") == 1
    assert heard.value("request_duration_seconds_count", model="a") == 2
    assert heard.value("request_duration_seconds_bucket", model="a", le="2.5") == 0
    assert heard.value("time_to_first_token_seconds_bucket", model="a", le="0.5") == 2
    assert heard.value("queue_wait_seconds_sum", model="a", outcome="served") == 1.5
    expected = {"tokens_prompt": 20, "tokens_prompt_cached": 5, "tokens_generated": 7}
    for name, value in {**expected, "prompt_seconds": 0.25, "generation_seconds": 2.0}.items():
        assert heard.value(f"{name}_total", model="a") == value


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (served(ttft=None, status=503, error="queue_timeout", waited=2.9, phase="failed"), "refused"),
        (served(ttft=None, status=499, waited=2.99, phase="left"), "left"),
        (served(ttft=None, status=499, waited=1.0, phase="left"), "served"),  # it left while the engine read its prompt
        (served(ttft=None, status=502, error="upstream_failed", waited=1.0, phase="failed"), "served"),
        (served(waited=0.0), "served"),
    ],
)
def test_how_a_wait_ended(heard: Heard, record: Record, outcome: str) -> None:
    heard.tally.add(record)
    found = {
        each.labels["outcome"]: each.value for each in heard.samples() if each.name == f"{P}queue_wait_seconds_count"
    }
    assert {name for name, count in found.items() if count} == {outcome}


def test_an_answer_that_comes_whole_has_no_first_token(heard: Heard) -> None:
    heard.tally.add(served(stream=False))
    assert heard.value("time_to_first_token_seconds_count", model="a") == 0


def test_an_error_has_no_first_token(heard: Heard) -> None:
    heard.tally.add(served(status=400, error="engine_error"))
    assert heard.value("time_to_first_token_seconds_count", model="a") == 0
    assert heard.value("request_duration_seconds_count", model="a") == 1


def test_what_did_not_wait_and_was_not_served_has_no_wait(heard: Heard) -> None:
    heard.tally.add(served(ttft=None, status=400, error="invalid_request", phase="failed"))
    assert heard.value("queue_wait_seconds_count", model="a") == 0
    assert heard.value("errors_total", kind="invalid_request") == 1


def test_names_that_are_no_models_become_no_labels(heard: Heard) -> None:
    for number in range(100):
        heard.tally.add(served(f"nonsense-{number}", status=404, ttft=None, error="unknown_model"))
        heard.emit(start(f"other-{number}"), kinds.Refused(f"third-{number}", 1, "queue_full", ""))
    assert heard.value("requests_total", model="", code="404") == 100
    assert heard.value("requests_refused_total", model="", reason="queue_full") == 100
    assert {each.labels["model"] for each in heard.samples() if "model" in each.labels} == {""}


def test_codes_dialects_and_kinds_are_closed_sets(heard: Heard) -> None:  # B-O4
    for number in range(1000):
        heard.tally.add(served(status=number, dialect=f"d{number}", error=f"e{number}"))
        heard.emit(kinds.Refused("a", 1, f"r{number}", ""))
    samples = heard.samples()
    requests = [each for each in samples if each.name == f"{P}requests_total"]
    assert len(requests) < 60
    assert {each.labels["dialect"] for each in requests} == {"other"}
    assert find(requests, f"{P}requests_total", code="other") == 1000 - len(requests) + 1
    errors = [each for each in samples if each.name == f"{P}errors_total"]
    assert len(errors) == MAX_KINDS + 1
    assert sum(each.value for each in errors) == 1000
    assert find(samples, f"{P}requests_refused_total", reason="other") == 1000


def test_a_model_that_left_takes_its_series_along(heard: Heard) -> None:
    heard.tally.add(served("a"))
    heard.tally.add(served("b"))
    heard.models.discard("a")
    heard.emit(kinds.Reload(removed=1))
    heard.tally.add(served("a"))
    assert {each.labels["model"] for each in heard.samples() if "model" in each.labels} == {"b", ""}
    heard.models.add("a")
    heard.tally.add(served("a"))
    assert heard.value("request_duration_seconds_count", model="a") == 1


def test_reloads(heard: Heard) -> None:
    heard.emit(kinds.Reload())
    assert heard.value("config_last_reload_successful") == 1
    heard.emit(kinds.Reload(why="line 3: there is no such key"))
    assert (heard.value("config_reloads_total"), heard.value("config_last_reload_successful")) == (2, 0)


def test_what_is_to_be_alarming_is_there_before_it_happens(heard: Heard) -> None:
    heard.emit(start("a"))
    for cause in ("crash", "hung", "load_failed"):
        assert heard.value("child_exits_total", model="a", cause=cause) == 0
    assert heard.value("loads_total", model="a", outcome="failed") == 0


def test_the_life_of_a_process(heard: Heard) -> None:
    heard.emit(start("a"), kinds.Ready("a", 1, 17, 4.0), kinds.Drain("a", "b", 2, {}), kinds.DrainEnded("a", 1.5))
    heard.emit(kinds.Evict("a", 1, Cause.MEMORY, "", "b", {}, {}, {}, {}, {}, 0.0))
    heard.emit(kinds.Exited("a", 1, Cause.MEMORY, "", {}, 0.5, 0))
    assert heard.value("loads_total", model="a", outcome="loaded") == 1
    assert heard.value("load_duration_seconds_sum", model="a") == 4
    assert heard.value("drains_total", model="a") == 1
    assert heard.value("drain_duration_seconds_sum", model="a") == 1.5
    assert heard.value("stops_total", model="a", reason="memory") == 1
    assert heard.value("child_exits_total", model="a", cause="stopped") == 1
    assert heard.value("loads_total", model="a") == 1


@pytest.mark.parametrize("cause", Cause)
def test_a_load_that_is_stopped_was_cancelled(heard: Heard, cause: Cause) -> None:
    heard.emit(start("a"), stop("a", cause), kinds.Exited("a", 1, cause, "", {}, 0.1, 0))
    assert heard.value("loads_total", model="a", outcome="cancelled") == 1
    assert heard.value("stops_total", model="a", reason=cause.value) == 1
    heard.emit(start("a", 2), kinds.Ready("a", 2, 1, 1.0), stop("a", cause, 2))
    assert heard.value("loads_total", model="a", outcome="cancelled") == 1


@pytest.mark.parametrize(
    ("event", "cause", "outcome"),
    [
        (kinds.LoadFailed("a", 1, "", {}, 1, 0.1), "load_failed", "failed"),
        (kinds.LoadFailed("a", 1, "", {}, 1, 0.1, will_retry=True), "load_failed", "retried"),
        (kinds.Crash("a", 1, "", {}, -9, 2), "crash", None),
        (kinds.Exited("a", 1, Cause.HUNG, "", {}, 0.5, -9), "hung", None),
        (kinds.Exited("a", 1, Cause.UNREACHABLE, "", {}, 0.5, -9), "hung", None),
    ],
)
def test_bad_ends(heard: Heard, event: AnyEvent, cause: str, outcome: str | None) -> None:
    heard.emit(start("a"), event)
    exits = {each.labels["cause"]: each.value for each in heard.samples() if each.name == f"{P}child_exits_total"}
    assert {name for name, count in exits.items() if count} == {cause}
    loads = {each.labels["outcome"]: each.value for each in heard.samples() if each.name == f"{P}loads_total"}
    assert {name for name, count in loads.items() if count} == ({outcome} if outcome else set())


def test_other_programs_that_take_memory(heard: Heard) -> None:
    heard.emit(kinds.Pressure("local/CUDA0", {}, {}, False))
    assert heard.value("memory_pressure_total") == 1


NAMES = st.sampled_from(["a", "b", "c", "d"])


@given(st.lists(st.tuples(NAMES, st.sampled_from(["use", "add", "remove"])), max_size=60))
def test_series_are_those_of_models_that_were_used_and_are_there(steps: list[tuple[str, str]]) -> None:  # B-O4
    heard = Heard(set())
    expected: dict[str, int] = {}
    for name, step in steps:
        match step:
            case "use":
                heard.tally.add(served(name))
                if name in heard.models:
                    expected[name] = expected.get(name, 0) + 1
            case "add":
                heard.models.add(name)
            case "remove":
                heard.models.discard(name)
                heard.emit(kinds.Reload(removed=1))
                expected.pop(name, None)
    found = {
        each.labels["model"]: each.value
        for each in heard.samples()
        if each.name == f"{P}request_duration_seconds_count"
    }
    assert found == expected
    read(b"".join([*heard.metrics.registry.pieces(OPENMETRICS), OPENMETRICS.end]).decode(), OPENMETRICS)


def test_refusals_are_kinds_of_errors() -> None:
    kinds_of_errors, classes = set(), [errors.RouterError]
    for each in classes:
        kinds_of_errors.add(each.kind)
        classes += each.__subclasses__()
    assert kinds_of_errors >= REFUSALS_OF_REQUESTS
    assert len(kinds_of_errors) + 5 < MAX_KINDS


def test_each_cause_and_refusal_is_a_label() -> None:
    """The board and the alerts name them: they are words, and few."""
    assert all(word.isidentifier() for word in (*REFUSALS, *(cause.value for cause in Cause)))
