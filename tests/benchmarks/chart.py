"""PURE: the rows of a report as a picture: bars of everybody who was measured side by side, in SVG.

Each measure has a scale of its own, so that seconds and requests stand in one picture. Whether long or short is good,
it says. `python -m tests.benchmarks --chart FILE` writes it of what that run has measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from tests.benchmarks.report import ENGINE, LLAMA_CPP, LLAMA_SWAP, NGINX, OLLAMA, OURS, Row, number

COLORS = {OURS: "#2f5fa8", NGINX: "#8b95a1", LLAMA_CPP: "#c2703d", LLAMA_SWAP: "#3f9a78", OLLAMA: "#9b6bb8"}
OTHER = "#b59a2b"
LEFT, WIDTH, BAR, GAP = 330, 420, 15, 14
TITLE = "The router beside its peers, as one run measured them"
MORE_IS_BETTER = ("/s", "1/s", "req/s", "tok/s")
STYLE = "text{font:13px system-ui,sans-serif;fill:#5d6978}.name{fill:#5d6978}.case{font-weight:600}"


def draw(rows: Sequence[Row]) -> str:
    """An SVG of the rows in which somebody else stands beside the router. The engine alone is no peer: it is what
    everybody waits for."""
    shown = [row for row in rows if OURS in row.values and row.values.keys() - {OURS, ENGINE}]
    parts: list[str] = []
    height = GAP
    for row in shown:
        parts += _row(row, height)
        height += _height(row)
    body = "".join(parts)
    width = LEFT + WIDTH + 130
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return f"{start}<title>{TITLE}</title><style>{STYLE}</style>{body}</svg>\n"


def _height(row: Row) -> int:
    return BAR * len(_values(row)) + GAP + 18


def _values(row: Row) -> list[tuple[str, float]]:
    return [(name, value) for name, value in row.values.items() if name != ENGINE]


def _row(row: Row, top: int) -> Iterator[str]:
    values = _values(row)
    most = max((value for _, value in values if math.isfinite(value)), default=0.0) or 1.0
    better = "longer is better" if row.unit.endswith(MORE_IS_BETTER) else "shorter is better"
    yield f'<text class="case" x="0" y="{top + 12}">{escape(row.case)}</text>'
    yield f'<text x="0" y="{top + 28}">{escape(row.measure)}, {escape(row.unit)} ({better})</text>'
    for at, (name, value) in enumerate(values):
        y = top + at * BAR
        length = WIDTH if not math.isfinite(value) else max(1.0, WIDTH * value / most)
        color = COLORS.get(name, OTHER)
        yield f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 3}" rx="2" fill="{color}"/>'
        yield f'<text x="{LEFT + length + 6:.1f}" y="{y + 11}">{escape(name)} {number(value)}</text>'
