"""Reads a scrape as its readers do: Prometheus's own parsers, and its tool `promtool`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from router.metrics.exposition import OPENMETRICS, TEXT, Format

OF_PROMETHEUS = (  # what Prometheus 2 asks for
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
ACCEPTS = {TEXT: "text/plain", OPENMETRICS: OF_PROMETHEUS}

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not here: apt-get install prometheus"
)


@dataclass(frozen=True)
class Sample:
    name: str
    labels: dict[str, str]
    value: float


def read(text: str, form: Format) -> list[Sample]:
    """All samples. Fails if the text is not well formed, or has anything twice."""
    families = list((parse_text if form is TEXT else parse_openmetrics)(text))
    samples = [Sample(each.name, each.labels, each.value) for family in families for each in family.samples]
    keys = [(sample.name, *sorted(sample.labels.items())) for sample in samples]
    assert len(keys) == len(set(keys)), "a series is there twice"
    told = re.findall(r"^# TYPE (\S+)", text, re.M)
    assert len(told) == len(set(told)), "a family is there twice"
    assert text.endswith("# EOF\n") is (form is OPENMETRICS)
    return samples


def find(samples: Iterable[Sample], name: str, **labels: str) -> float:
    """The sum of all samples of this name with these labels, among others."""
    found = [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]
    assert found, f"there is no {name} with {labels}"
    return sum(found)


def check_with_promtool(text: str) -> None:
    """All that promtool says against a text, but that the engines' names have a colon: those are llama.cpp's."""
    done = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, timeout=30)
    said = [line for line in done.stderr.splitlines() if not line.startswith("llamacpp:")]
    assert said == []
    assert done.returncode in (0, 3)  # 3: it finds no fault but with names
