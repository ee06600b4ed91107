"""Whether a projector belongs to a model, as far as both headers tell.

A projector that the router found by itself may be damaged, or another model's. Then it is left out and the model serves
text, which is more than a child that fails. One that somebody named is an error instead. Nothing is judged that is not
known: a type that is not in the table, or a file without the tensor, fits. Called by `describe`, and by
`memory.estimator` for each load; both get the headers from the cache of `gguf`.
"""

from __future__ import annotations

from pathlib import Path

from router.errors import GgufError
from router.models import gguf
from router.models.metadata import Metadata
from router.models.spec import ModelSpec

# The tensor that makes the text model's rows, by type of projector (`clip_n_mmproj_embd` in tools/mtmd/clip.cpp of
# b11434). The rows are as long as its matrix has columns in the file, which is its second length.
LAST_TENSORS = {
    kind: tensor
    for tensor, kinds in {
        "mm.2.weight": """
            mlp phi4 pixtral lightonocr dots_ocr dots3note_v muse-glimmer qwen2vl_merger qwen2.5vl_merger exaone4_5
            youtuvl qwen3vl_merger ling3vl mimovl lfm2 kimivl paddleocr kimik25 yasa2 deepseek4v
        """,
        "mm.1.weight": "janus_pro",
        "mm.merger.fc2.weight": "minimax_m3",
        "mm.model.fc.weight": "step3vl idefics3 llama4 hunyuanvl deepseekocr deepseekocr2",
        "mm.input_projection.weight": "gemma4v gemma4uv",
        "mm.a.input_projection.weight": "gemma4a gemma4ua",
        "mm.a.mlp.2.weight": "ultravox voxtral musicflamingo qwen3a glma parakeet mimo_audio",
        "a.proj_linear.weight": "granite_speech",
        "adapter.linear.dense_4h_to_h.weight": "adapter",
        "mm.a.mlp.3.weight": "meralion dots3note_a",
        "mm.model.mlp.3.weight": "internvl nemotron_v2_vl",
        "mm.a.fc.weight": "qwen2a",
        "mm.down.weight": "cogvlm glm4v glm5v minicpmv4_6",
    }.items()
    for kind in kinds.split()
}
# Here the rows are as long as the rows of the matrix in the file.
LAST_TENSORS_TURNED = {
    "gemma3": "mm.input_projection.weight",
    "gemma3nv": "mm.input_projection.weight",
    "resampler": "resampler.proj.weight",
    "lfm2a": "a.position_embd.weight",
}
BOTH = {"qwen2.5o": ("qwen2.5vl_merger", "qwen2a")}
# How long the rows are that these text models take is not decided by their width alone.
UNKNOWN_WIDTHS = frozenset(("granite", "granitemoe", "granite_swa", "gemma4-assistant"))
MAX_STACKED = 64  # no model stacks so many


def kind_of(projector: Metadata, part: str) -> str:
    """The projector's type for `vision` or `audio`."""
    kind = projector.text("clip.projector_type") or projector.text(f"clip.{part}.projector_type") or ""
    return BOTH.get(kind, (kind, kind))[part == "audio"]


def width_of(projector: Metadata) -> int | None:
    """How long the rows are that the projector gives to the text model; None if that is not known."""
    tensors = {tensor.name: tensor.shape for tensor in projector.tensors}
    for part in ("vision", "audio"):
        if projector.fields.get(f"clip.has_{part}_encoder") is not True:
            continue
        kind = kind_of(projector, part)
        if kind == "mlp" and "mm.3.weight" in tensors:  # with norms
            return tensors["mm.3.weight"][1] if len(tensors["mm.3.weight"]) == 2 else None
        turned = kind in LAST_TENSORS_TURNED
        shape = tensors.get((LAST_TENSORS_TURNED if turned else LAST_TENSORS).get(kind, ""), ())
        if len(shape) != 2:
            return None
        stacked = sum(name.endswith(".fc2.weight") and name.startswith("v.deepstack.") for name in tensors)
        return shape[0 if turned else 1] * (1 + (stacked if kind == "qwen3vl_merger" else 0))
    return None


def width_for(model: Metadata) -> int | None:
    """How long the rows are that a text model takes; None if that is not known."""
    stacked = model.integer("n_deepstack_layers")
    if model.architecture in UNKNOWN_WIDTHS or not model.embedding_length or stacked > MAX_STACKED:
        return None
    return model.embedding_length * (1 + stacked)


def misfit(model: Metadata, path: Path) -> str | None:
    """Why this projector cannot be used with the model, as the end of a sentence; None if nothing speaks against it."""
    try:
        projector = gguf.read(path)
    except GgufError as error:
        return str(error)
    if projector.architecture != "clip" and not any(key.startswith("clip.") for key in projector.fields):
        return f"{path} is no projector, but a model ({projector.architecture or 'of unknown architecture'})"
    given, taken = width_of(projector), width_for(model)
    if given and taken and given != taken:
        return f"{path} is the projector of another model: it gives rows of {given}, and this model takes {taken}"
    return None


def without_misfit(spec: ModelSpec) -> tuple[ModelSpec, str]:
    """The model without a projector that cannot be used and that nobody named, and why; the same model and an empty
    text for all others. Blocks. Raises GgufError if the model itself cannot be read."""
    if not spec.found_mmproj or spec.mmproj_path is None or spec.model_path is None:
        return spec, ""
    reason = misfit(gguf.read(spec.model_path), spec.mmproj_path)
    if reason is None:
        return spec, ""
    return spec.without_projector(), reason
