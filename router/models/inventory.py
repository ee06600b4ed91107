"""What `llama-router list` shows: a row for each model, as the files of the models describe it.

With `shows_all` the files in folders of models that are no models have rows too. Reading blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from router.engine import flags
from router.models.catalog import Catalog
from router.models.describe import describe
from router.models.spec import ModelSpec
from router.redaction import without_credentials
from router.units import size

COLUMNS = ("name", "source", "size", "context", "quantization", "problem")


def rows(catalog: Catalog, *, shows_all: bool) -> list[dict[str, Any]]:
    """The rows as they are printed with `--json`."""
    described = [describe(spec) for spec in catalog.models]
    shown = [_row(spec) for spec in described if shows_all or not spec.is_no_model]
    return shown + [_row_of_other(*other) for other in catalog.left_out.items() if shows_all]


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The rows as lines of text, below a line with the names of the columns."""
    cells = [[_cell(column, row[column]) for column in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
    for line in ([*COLUMNS], *cells):
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _row(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "aliases": spec.aliases,
        "tags": spec.tags,
        "source": spec.source,
        "size": spec.size_bytes,
        "context": spec.info.n_ctx_train,
        "quantization": spec.info.quantization,
        "architecture": spec.info.architecture,
        "args": flags.shown_words(spec.args),
        "problem": spec.info.problem,
        "warning": spec.info.warning,
    }


def _row_of_other(name: str, kind: str) -> dict[str, Any]:
    """A file in a folder of models that is none."""
    empty = dict.fromkeys(("size", "context", "quantization", "architecture", "warning"))
    return {"name": name, "aliases": (), "tags": (), "source": "models_dir", "args": [], "problem": kind, **empty}


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    text = without_credentials(size(value) if column == "size" else str(value))
    return text if text.isprintable() else ascii(text)  # a file's name may hold control characters
