from __future__ import annotations

import pytest

from router.memory.projectors import projector_bytes
from router.models.metadata import Metadata
from tests.memory.rig import projector_header


@pytest.mark.parametrize("kind", ["lfm2a", "parakeet", "granite_speech", "gemma4a"])
def test_sound_of_a_file_without_its_tensors_is_a_guess(kind: str) -> None:
    """The engine refuses such a file."""
    header: Metadata = projector_header(kind, "audio", {"a.blk.0.ffn_up.weight": (64, 256)})
    assert projector_bytes(header, flash=True) == header.weights_bytes // 4
