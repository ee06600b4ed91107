from __future__ import annotations

import math

import pytest

from router.metrics.exposition import OPENMETRICS, TEXT, Format, accepted, escaped, head, number
from tests.metrics.scrapes import OF_PROMETHEUS


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        ("text/plain", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        (OF_PROMETHEUS, OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.5", OPENMETRICS),
        ("application/openmetrics-text;q=0.1,text/plain;q=0.9", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;q=inf,text/plain", TEXT),
        (";;,=,q=;application/openmetrics-text", TEXT),
    ],
)
def test_the_client_chooses_the_format(accept: str, expected: Format) -> None:
    assert accepted(accept) is expected


def test_the_heads_of_a_counter_in_both_formats() -> None:
    assert head(TEXT, "a", "counter", "Counts") == b"# HELP a_total Counts.\n# TYPE a_total counter\n"
    assert head(OPENMETRICS, "a", "counter", "Counts") == b"# HELP a Counts.\n# TYPE a counter\n"
    assert head(TEXT, "a", "info", "Says") == b"# HELP a_info Says.\n# TYPE a_info gauge\n"
    assert head(TEXT, "a", "unknown", "Says").endswith(b" untyped\n")
    assert head(OPENMETRICS, "a_seconds", "gauge", "Lasts", "seconds").endswith(b"# UNIT a_seconds seconds\n")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, "3"), (10**20, "1" + 20 * "0"), (0.5, "0.5"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN")],
)
def test_numbers(value: float, expected: str) -> None:
    assert number(value) == expected


def test_labels_are_escaped() -> None:
    assert escaped('a\\b"c\nd') == r"a\\b\"c\nd"
    assert escaped("é\udce9") == "é?"
