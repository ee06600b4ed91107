"""Details of models."""

from __future__ import annotations

import pytest

from router.api.details import parameter_size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((7_615_616_512, "7.6B"), (8_000_000_000, "8B"), (134_512, "135K"), (596_049_920, "596.05M"), (12, "12")),
        (1_026_408_232_448, "1.0T"),
    ],
)
def test_parameters_are_counted_as_ollama_counts_them(count: int, text: str) -> None:
    assert parameter_size(count) == text
