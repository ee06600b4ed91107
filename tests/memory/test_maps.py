from __future__ import annotations

import pytest

from router.memory.projectors import projector_bytes
from tests.memory.rig import projector_header


@pytest.mark.parametrize("kind", ["deepseekocr", "deepseekocr2", "gemma3nv", "yasa2"])
def test_a_picture_of_a_file_without_its_tensors_is_a_guess(kind: str) -> None:
    """The engine refuses such a file."""
    header = projector_header(kind, "vision", {"v.stage.0.blk.0.dw.weight": (7, 7, 1, 64)})
    assert projector_bytes(header, flash=False) == header.weights_bytes // 4


@pytest.mark.parametrize("kind", ["gemma3nv", "yasa2"])
def test_maps_of_any_depth_have_an_end(kind: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (4, 4, 3, 64),
        "v.conv_stem.conv.weight": (3, 3, 3, 64),
        "mm.0.weight": (64, 64),
        "mm.2.weight": (64, 64),
    }
    for stage in range(30):
        for block in range(100):
            shapes[f"v.stage.{stage}.blk.{block}.dw.weight"] = (7, 7, 1, 64)
            shapes[f"v.stage.{stage}.blk.{block}.pw1.weight"] = (64, 256)
            shapes[f"v.stage.{stage}.blk.{block}.pw2.weight"] = (256, 64)
    assert projector_bytes(projector_header(kind, "vision", shapes), flash=True) > 0
