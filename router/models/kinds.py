"""What a file is if it is no language model: an adapter, a projector, a vocabulary, an image model, and the like.

The header decides. A name alone decides nothing: `llama-imatrix-Q4_K_M.gguf` is a model that was made with an imatrix,
and a projector may have any name. So `suspected` says which files of a folder have to be looked into, and `peek` reads
only the first fields. `describe` asks `other_kind` about each header that it reads. The kinds are those of llama.cpp
(gguf-py/gguf/constants.py, GGUFType; src/llama-arch.cpp) and of programs that use the format for other models.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from router import files
from router.errors import GgufError
from router.models.header import HeaderReader
from router.models.metadata import Metadata

PROJECTOR = "a projector: put it into the folder of its model, with mmproj in its name"
DRAFT = "a draft model: put it into the folder of its model, or name it there by spec-draft-model in a preset"
ADAPTER = "an adapter: name it by lora in the preset of its model"
IMATRIX = "an importance matrix, which llama-quantize reads"
VOCABULARY = "a vocabulary without a model"
IMAGES = "a model for images or video, or a part of one, which stable-diffusion.cpp runs"

_BY_TYPE = {"adapter": ADAPTER, "imatrix": IMATRIX, "mmproj": PROJECTOR, "clip-vision": PROJECTOR, "vocab": VOCABULARY}
_IMAGE_ARCHITECTURES = """
    sd1 sd2 sd3 sdxl flux flux2 aura chroma cosmos hidream hyvid hunyuan_video lumina2 ltxv mochi pig pixart qwen_image
    wan z_image kontext vae taesd esrgan controlnet
"""
_BY_ARCHITECTURE = {
    "clip": PROJECTOR,
    "imatrix": IMATRIX,
    "controlvector": "a control vector: name it by control-vector in the preset of its model",
    "whisper": "a model for speech recognition, which whisper.cpp runs",
    "wavtokenizer-dec": "a vocoder, which llama-tts uses beside its model",
    **dict.fromkeys(("eagle3", "dflash", "gemma4-assistant"), DRAFT),
    **dict.fromkeys(_IMAGE_ARCHITECTURES.split(), IMAGES),
}
# How the tensors of such models are called in files that name no architecture.
_IMAGE_TENSORS = re.compile(
    r"model\.diffusion_model\.|first_stage_model\.|double_blocks\.|joint_blocks\.|cond_stage_model\.|input_blocks\."
    r"|(?:de|en)coder\.(?:conv_in|mid)\.|transformer_blocks\."
)
# What files of other formats begin with. Those of GGML are 32-bit numbers, lowest byte first.
_MAGICS = {
    **dict.fromkeys(
        (b"lmgg", b"fmgg", b"tjgg", b"algg"),
        "a file of 2023 (GGML), which llama.cpp does not read any more: get the model as GGUF",
    ),
    b"PK\x03\x04": "a file of PyTorch: convert the model with llama.cpp's convert_hf_to_gguf.py",
}
SAFETENSORS = "a file of safetensors: convert the model with llama.cpp's convert_hf_to_gguf.py"

# Ollama converts some models for an engine of its own: under names of its own (`convert` and `model/models` of Ollama),
# or with the weights for pictures and sound among those of the text model, where llama.cpp wants a projector.
_ARCHITECTURES_OF_OLLAMA = frozenset(["deepseekocr", "glm4moelite", "glmocr", "gptoss", "mllama", "qwen25vl"])
_COMPANION_TENSORS = ("v.", "mm.", "a.")

# Names of files that are often no models.
_SUSPECTED = re.compile(
    r"imatrix|\blora\b|[-_.]lora|adapter|control.?vector|vocab|tokenizer|whisper|vae|unet|diffusion|\bclip\b|vocoder"
    r"|wavtokenizer|projector|eagle3|safetensors|ggml",
    re.IGNORECASE,
)
_ELSEWHERE = "llama-server loads that of a repository on the hub, such as ggml-org's (hf-repo = user/repo)"
PEEK_BYTES = 1 << 16


def suspected(name: str) -> bool:
    """Whether a file of this name has to be looked into, to know whether it is a model."""
    return _SUSPECTED.search(name) is not None


def other_kind(metadata: Metadata) -> str | None:
    """What a file is, as the end of a sentence that begins with its path; None for a language model."""
    kind = _by_fields(metadata.architecture, metadata.fields.get("general.type"))
    if kind or metadata.architecture:
        return kind or (VOCABULARY if not metadata.tensors else None)
    if any(_IMAGE_TENSORS.match(tensor.name) for tensor in metadata.tensors):
        return IMAGES
    return "no language model that llama-server knows: its header names no architecture"


def only_for_ollama(metadata: Metadata) -> str | None:
    """What of a model in Ollama's store only Ollama's own engine can load, as `other_kind`; None for all others."""
    if metadata.architecture in _ARCHITECTURES_OF_OLLAMA:
        return f"a conversion for Ollama's own engine ({metadata.architecture}): {_ELSEWHERE}"
    if any(tensor.name.startswith(_COMPANION_TENSORS) for tensor in metadata.tensors):
        return f"a conversion for Ollama's own engine, with the weights of its projector in the same file: {_ELSEWHERE}"
    return None


def other_format(start: bytes) -> str | None:
    """The same, by the first bytes of a file that is no GGUF."""
    if known := _MAGICS.get(start[:4]):
        return known
    return SAFETENSORS if start[8:10] == b'{"' and int.from_bytes(start[:8], "little") < 1 << 27 else None


def peek(path: Path) -> str | None:
    """What the file is by its first fields, as `other_kind`; None for a model, and for a file that cannot be read."""
    try:
        with files.open_regular(path) as file:
            start = file.read(10)
            if start[:4] != b"GGUF":
                return other_format(start)
            size = min(PEEK_BYTES, os.fstat(file.fileno()).st_size)
            return _by_fields(*HeaderReader(path, file, size).first_fields())
    except (OSError, ValueError, GgufError):
        return None


def _by_fields(architecture: object, kind: object) -> str | None:
    by_type = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    return by_type or (_BY_ARCHITECTURE.get(architecture) if isinstance(architecture, str) else None)
