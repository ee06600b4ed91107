"""Text models of the sizes that people run, one of each family, as sparse files.

`families.jsonl` has one family a line, as the engine asks for it: the header's fields, and tables of tensors as in
`tests.shapes`, with numbers for dimensions. `layers` are the different tables; `runs` says how often each stands in a
row (`[[0, 1], [1, 27]]`: the first layer is another one), or `period` which ones repeat, `count` layers in all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.shapes import Shape


def _order(family: dict[str, Any]) -> list[int]:
    """The table of each layer."""
    if "runs" in family:
        return [table for table, count in family["runs"] for _ in range(count)]
    period = family["period"]
    return [period[n % len(period)] for n in range(family["count"])]


def _shape(family: dict[str, Any]) -> Shape:
    fields = family["fields"]
    layers = [family["layers"][table] for table in _order(family)]
    sizes = {"V": fields["vocab_size"]}
    return Shape(family["name"], family["architecture"], sizes, layers, family["top"], fields)


FAMILIES = tuple(
    _shape(json.loads(line)) for line in Path(__file__).with_name("families.jsonl").read_text().splitlines()
)
