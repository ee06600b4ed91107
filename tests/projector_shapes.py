"""Projectors of the sizes that people run, one of each type, as sparse files. The engine measures them without loading.

`projectors.jsonl` has one projector a line: its tables of tensors and its header's fields, as in `tests.shapes`. `runs`
says how often each of the tables `layers` stands in a row. D is the width, F the inner width of a network, O the text
model's width, S the patch, Z the number of positions, B the number of mel bins. Tensor names are those of llama.cpp's
tools/mtmd/clip-impl.h.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf

from tests.shapes import Shape

HALF = gguf.GGMLQuantizationType.F16


def _shape(row: dict[str, Any]) -> Shape:
    layers = [row["layers"][table] for table, count in row["runs"] for _ in range(count)]
    return Shape(row["name"], "clip", row["sizes"], layers, row["top"], row["fields"], HALF, block=row["block"])


PROJECTORS = tuple(
    _shape(json.loads(line)) for line in Path(__file__).with_name("projectors.jsonl").read_text().splitlines()
)


def of_both_kinds(name: str, vision: str, audio: str) -> Shape:
    """One file with two of them, whose types stand in fields of their own."""
    known = {shape.name: shape for shape in PROJECTORS}
    seen, heard = known[vision], known[audio]
    heard = replace(heard, sizes={**heard.sizes, "O": seen.sizes["O"]})  # both go to the same text model
    tops: list[str] = []
    fields: dict[str, Any] = {}
    for shape, part in ((seen, "vision"), (heard, "audio")):
        own = {key: value for key, value in shape.fields.items() if key != "projector_type"}
        fields |= {**own, f"{part}.projector_type": shape.fields["projector_type"]}
        tops.append(";".join(_written_out(shape)))
    return Shape(name, "clip", {}, [], ";".join(tops), fields, HALF, block=seen.block)


def _written_out(shape: Shape) -> list[str]:
    """All tensors with numbers for letters."""
    return [f"{name}. {' '.join(map(str, dims))}" for name, dims in shape.tensors()]


def small_projector(folder: Path, out: int) -> Path:
    """A small one for a text model of this width, under a name by which projectors are found."""
    fields = {
        "has_vision_encoder": True,
        "projector_type": "idefics3",
        "use_gelu": True,
        "vision.image_size": 28,
        "vision.patch_size": 14,
        "vision.embedding_length": 32,
        "vision.feed_forward_length": 64,
        "vision.block_count": 1,
        "vision.projection_dim": out,
        "vision.attention.head_count": 2,
        "vision.attention.layer_norm_epsilon": 1e-6,
        "vision.image_mean": [0.5, 0.5, 0.5],
        "vision.image_std": [0.5, 0.5, 0.5],
    }
    layer = "attn_q D D; attn_k D D; attn_v D D; attn_out D D; ffn_up D F; ffn_down F D"
    top = "v.patch_embd 14 14 3 D; v.position_embd D 4; mm.model.fc D O"
    return Shape("mmproj", "clip", {"D": 32, "F": 64, "O": out}, [layer], top, fields, HALF, block="v.blk").write(
        folder
    )
