"""Series that keep their text: it is always the text of their values."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.metrics.exposition import OPENMETRICS, TEXT, Format
from router.metrics.families import BLOCK, Counter, Family, Gauge, Histogram, Info, Registry, replace
from tests.metrics.scrapes import Sample, find, read


def text_of(registry: Registry, form: Format) -> str:
    return b"".join([*registry.pieces(form), form.end]).decode()


@pytest.mark.parametrize("form", Format)
def test_all_kinds_are_read_by_others(form: Format) -> None:
    registry = Registry("x_", clock=lambda: 1_700_000_000.25)
    registry.make(Counter, "asked", "Requests", "model").of("a").add(2)
    registry.make(Gauge, "held_bytes", "Bytes", "model").of('sl\\ash "quote"\nline').set(7)
    registry.make(Info, "build", "Version", "version").of("1")
    times = registry.make(Histogram, "took_seconds", "Time", "model").of("é")
    for value in (0.0, 0.05, 0.06, 700.0):
        times.observe(value)
    samples = read(text_of(registry, form), form)
    assert find(samples, "x_asked_total", model="a") == 2
    assert find(samples, "x_held_bytes", model='sl\\ash "quote"\nline') == 7
    assert find(samples, "x_build_info", version="1") == 1
    buckets = {each.labels["le"]: each.value for each in samples if each.name == "x_took_seconds_bucket"}
    assert (buckets["0.05"], buckets["0.1"], buckets["600.0"], buckets["+Inf"]) == (2, 3, 3, 4)
    assert find(samples, "x_took_seconds_count") == 4
    assert find(samples, "x_took_seconds_sum") == pytest.approx(700.11)


def test_openmetrics_says_since_when_a_series_counts() -> None:
    now = 100.0
    registry = Registry("x_", clock=lambda: now)
    family = registry.make(Counter, "asked", "Requests", "model")
    family.of("a").add()
    now = 200.5
    family.of("b").add()
    samples = read(text_of(registry, OPENMETRICS), OPENMETRICS)
    assert find(samples, "x_asked_created", model="a") == 100.0
    assert find(samples, "x_asked_created", model="b") == 200.5
    assert "created" not in text_of(registry, TEXT)


def test_a_family_without_labels_begins_with_0() -> None:
    registry = Registry()
    registry.make(Counter, "asked", "Requests")
    assert read(text_of(registry, TEXT), TEXT) == [Sample("asked_total", {}, 0.0)]


def test_what_has_not_changed_is_not_written_again() -> None:
    family = Family(Counter, "asked", "Requests", ("model",))
    for number in range(3 * BLOCK):
        family.of(str(number)).add()
    first = list(family.pieces(TEXT))
    family.of(str(BLOCK)).add()
    second = list(family.pieces(TEXT))
    assert [one is other for one, other in zip(first, second, strict=True)] == [True, True, False, True]


def test_a_new_series_is_there_before_it_changes() -> None:
    registry = Registry()
    family = registry.make(Counter, "asked", "Requests", "model")
    for model in "ab":
        family.of(model)
        assert find(read(text_of(registry, TEXT), TEXT), "asked_total", model=model) == 0


def test_what_changes_often_stands_apart() -> None:
    """So that its neighbours keep their text."""
    family = Family(Counter, "asked", "Requests", ("model",))
    for number in range(4 * BLOCK):
        family.of(str(number)).add()
    list(family.pieces(TEXT))
    often = [str(number) for number in range(0, 4 * BLOCK, BLOCK)]  # one in each block
    written: list[list[bytes]] = []
    for _ in range(3):
        for model in often:
            family.of(model).add()
        family.gather()
        written.append(list(family.pieces(TEXT)))
    *_, before, after = written
    kept = [any(piece is other for other in before) for piece in after]
    assert kept == [True] * (len(after) - 1) + [False]
    assert after[-1].count(b"\n") <= 2 * len(often)


def test_dropped_series_are_gone_and_begin_anew() -> None:
    registry = Registry()
    family = registry.make(Counter, "asked", "Requests", "model", "code")
    for model in "ab":
        for code in ("200", "404"):
            family.of(model, code).add()
    registry.forget("model", {"a", "none"})
    registry.forget("other", {"b"})
    assert {each.labels["model"] for each in read(text_of(registry, TEXT), TEXT)} == {"b"}
    assert family.of("a", "200").value == 0
    family.drop([("a", "200"), ("b", "200"), ("b", "404")])
    assert read(text_of(registry, TEXT), TEXT) == []


def test_replaced_gauges_are_all_there_are() -> None:
    registry = Registry()
    family = registry.make(Gauge, "held_bytes", "Bytes", "model")
    replace(family, {("a",): 1, ("b",): 2})
    replace(family, {("b",): 3, ("c",): 4})
    samples = read(text_of(registry, TEXT), TEXT)
    assert {each.labels["model"]: each.value for each in samples} == {"b": 3, "c": 4}


@given(st.randoms(use_true_random=False))
def test_the_text_is_that_of_the_values(rng: random.Random) -> None:  # B-O4
    """Whatever changes between scrapes, in both formats by turns."""
    registry = Registry()
    family = registry.make(Counter, "asked", "Requests", "model")
    expected: dict[str, int] = {}
    for _ in range(30):
        model = str(rng.randrange(3 * BLOCK))
        match rng.randrange(5):
            case 0:
                family.drop([(model,)])
                expected.pop(model, None)
            case 1:
                form = rng.choice([TEXT, OPENMETRICS])
                samples = [each for each in read(text_of(registry, form), form) if each.name == "asked_total"]
                assert {each.labels["model"]: each.value for each in samples} == expected
            case 2:
                registry.gather()
            case _:
                family.of(model).add(2)
                expected[model] = expected.get(model, 0) + 2
