"""PURE: the two formats of metrics: Prometheus's text 0.0.4, and OpenMetrics 1.0.

They differ in little: in OpenMetrics a family of counters has its name without `_total`, a family may have a unit, each
counter and histogram says since when it counts, and the end is marked, so that half a text is known as such.

https://prometheus.io/docs/instrumenting/exposition_formats and
https://prometheus.io/docs/specs/om/open_metrics_spec say what holds. Used by `families` and `engines`.
"""

from __future__ import annotations

import math
from enum import Enum


class Format(Enum):
    """The value is the media type of the answer."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    __hash__ = object.__hash__  # each member exists once

    @property
    def end(self) -> bytes:
        return b"" if self is TEXT else b"# EOF\n"


TEXT, OPENMETRICS = Format.TEXT, Format.OPENMETRICS
_SUFFIXES = {"counter": "_total", "info": "_info"}  # of samples, which OpenMetrics does not count to the family's name
_IN_TEXT = {"info": "gauge", "unknown": "untyped"}  # what the older format has not, or by another name


def accepted(accept: str) -> Format:
    """The format that a client asks for with this `Accept`: the text unless it likes OpenMetrics as much."""
    best = {TEXT: 0.0, OPENMETRICS: 0.0}
    for part in accept.lower().split(","):
        media_type, *parameters = (word.strip() for word in part.split(";"))
        wanted = dict(word.partition("=")[::2] for word in parameters)
        form = {"application/openmetrics-text": OPENMETRICS, "text/plain": TEXT}.get(media_type)
        if form is OPENMETRICS and wanted.get("version", "1.0.0") not in ("1.0.0", "0.0.1"):
            continue
        if form is not None:
            best[form] = max(best[form], _quality(wanted.get("q", "1")))
    return OPENMETRICS if best[OPENMETRICS] and best[OPENMETRICS] >= best[TEXT] else TEXT


def _quality(text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0.0 <= quality <= 1.0 else 0.0


def head(form: Format, name: str, kind: str, text: str, unit: str = "") -> bytes:
    """The lines before the samples of a family. `name` is without `_total` and `_info`; `kind` is OpenMetrics' word."""
    if form is TEXT:
        name, kind = name + _SUFFIXES.get(kind, ""), _IN_TEXT.get(kind, kind)
    lines = [f"# HELP {name} {text}.", f"# TYPE {name} {kind}"]
    if unit and form is OPENMETRICS:
        lines.append(f"# UNIT {name} {unit}")
    return "".join(f"{line}\n" for line in lines).encode()


def number(value: float) -> str:
    """As both formats read it. Counts stay whole numbers."""
    if isinstance(value, int) or math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def escaped(value: str) -> str:
    """The value of a label, between quotes. What is no Unicode becomes question marks."""
    value = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value if value.isascii() else value.encode(errors="replace").decode()
