"""The number of clients fits the number of files that may be open."""

from __future__ import annotations

import pytest

from router.server import openfiles


@pytest.mark.parametrize(
    ("wanted", "files", "models", "most"),
    [
        (0, 65_536, 4, 4096),
        (0, 256, 4, 84),
        (50, 256, 4, 50),
        (500, 256, 4, 84),
        (0, 64, 4, 8),
        (9000, 65_536, 4, 9000),
    ],
)
def test_files_are_reserved(wanted: int, files: int, models: int, most: int) -> None:  # B-T4
    assert openfiles.max_connections(wanted, files, models) == most
