"""What a model's files say about it: header, projector and chat template become an `Info`.

It reads files, which takes some milliseconds, and 0.1 s for a large model. So the answers are kept by file identity,
and the router calls this in threads: one file on a disk that hangs must not stop the others. Called when the catalog
has been read, and again when arguments decide what a model can do.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

from cachetools import LRUCache

from router import files
from router.engine.flags import switch_of
from router.errors import GgufError
from router.models import gguf, kinds, template
from router.models.metadata import Metadata
from router.models.projector import without_misfit
from router.models.shards import shards
from router.models.spec import Info, ModelSpec
from router.models.template import TemplateFeatures
from router.text import valid

# Reading more of a template than this changes nothing: a longer one is judged by its first words alone.
MAX_TEMPLATE_BYTES = 4 * template.MAX_CHARACTERS + 4  # a character of UTF-8 has up to 4 bytes

# Of a model in Ollama's store, whose own template is in a language that the engine does not read.
_NO_TEMPLATE = "the model file has no chat template, so chats are in ChatML: name another by chat-template in a preset"

# A file that was written to within so many seconds may not be complete yet.
BEING_WRITTEN_S = 5.0
ARRIVING = "It was written to a moment ago: perhaps it is not complete yet"  # ends the problem of such a file

_infos: LRUCache[tuple[object, ...], Info] = LRUCache(4096)
_lock = threading.Lock()


def describe(spec: ModelSpec) -> ModelSpec:
    """The same model with `info` from its files. Blocks. Never raises for a bad file: `info.problem` says what is wrong
    with it."""
    return replace(spec, info=_info(spec))


def _info(spec: ModelSpec) -> Info:
    if spec.model_path is None or spec.problem:
        return Info(problem=spec.problem and valid(spec.problem))
    path = spec.model_path
    try:
        override = overriding_template(spec)
        spec, left_out = without_misfit(spec)
        parts = filter(None, (path, spec.mmproj_path))
        key = (*map(_file_identity, parts), _task_of_flags(spec), _digest(override), left_out, spec.package is None)
        with _lock:
            info = _infos.get(key)
        if info is None:
            info = _read(spec, path, override)
            info = replace(info, warning=valid(left_out) or info.warning)
    except (OSError, ValueError) as error:
        return Info(problem=valid(files.problem_of(path, error)))
    except GgufError as error:
        return _of_bad_file(path, str(error))
    with _lock:
        _infos[key] = info
    return info


def _of_bad_file(path: Path, problem: str) -> Info:
    """What is known of a model whose header is wrong: it may be in another format, or on its way here."""
    if kind := kinds.peek(path):
        return Info(problem=valid(f"{path} is {kind}"), other_kind=kind)
    if _is_being_written(path):
        return Info(problem=valid(f"{problem}. {ARRIVING}"))
    return Info(problem=valid(problem))


def _is_being_written(path: Path) -> bool:
    try:
        if files.read_start(path, 4) not in (b"GGUF", b""):
            return False
        return any(abs(time.time() - os.stat(part).st_mtime) < BEING_WRITTEN_S for part in shards(path))
    except (OSError, ValueError):
        return False


def _read(spec: ModelSpec, path: Path, template_override: str | None) -> Info:
    model = gguf.read_model(path)
    if kind := kinds.other_kind(model):
        return Info(problem=valid(f"{path} is {kind}"), other_kind=kind, architecture=model.architecture or None)
    if spec.package and (kind := kinds.only_for_ollama(model)):
        return Info(problem=valid(f"{path} is {kind}"), architecture=model.architecture)
    projector = gguf.read(spec.mmproj_path).fields if spec.mmproj_path else {}
    has_image, has_audio = (projector.get(f"clip.has_{kind}_encoder") is True for kind in ("vision", "audio"))
    task_of_header = {None: "completion", "none": "completion", "rank": "rerank"}.get(model.pooling, "embedding")
    task = _task_of_flags(spec) or task_of_header
    completes = task == "completion"
    text = (model.chat_template or "") if template_override is None else template_override
    chat = template.analyse(text) if completes else TemplateFeatures()
    abilities = {
        "vision": has_image,
        "audio": has_audio,
        "tools": chat.tools,
        "thinking": chat.reasoning,
        "insert": completes and "tokenizer.ggml.fim_pre_token_id" in model.fields,
    }
    return Info(
        architecture=model.architecture or None,
        quantization=model.quantization,
        n_ctx_train=model.context_length or None,
        n_params=model.n_params,
        n_embd=_embedding_length(model),
        input_modalities=("text", *(["image"] if has_image else []), *(["audio"] if has_audio else [])),
        capabilities=(task, *(name for name, has in abilities.items() if has)),
        reasoning=chat.reasoning,
        roles=chat.roles,
        warning=_NO_TEMPLATE if spec.package and completes and not text else None,
    )


def _embedding_length(model: Metadata) -> int | None:
    """The length of the model's vectors; None if the header does not say."""
    value = model.fields.get(f"{model.architecture}.embedding_length")
    return value if isinstance(value, int) and value > 0 else None


def overriding_template(spec: ModelSpec) -> str | None:
    """The chat template that counts instead of the file's own; None if there is no other.

    For a template that is built into the engine this is its name: nothing else is known about it.
    """
    if spec.template is not None:
        return spec.template
    given = [arg for arg in spec.args if arg.flag.name in ("--chat-template", "--chat-template-file")]
    if not given:
        return None
    value = given[-1].values[0]
    return _template_file(Path(value)) if given[-1].flag.name == "--chat-template-file" else value


def _template_file(path: Path) -> str:
    """The part of the file's text that matters; empty if it cannot be read: loading the model will report that."""
    try:
        text = files.read_start(path, MAX_TEMPLATE_BYTES).decode(errors="replace")
    except (OSError, ValueError):
        return ""
    return text[: template.MAX_CHARACTERS + 1]


def _task_of_flags(spec: ModelSpec) -> str | None:
    """What flags make the model do, whatever its header says; None if no flag decides."""
    tasks = {"--rerank": "rerank", "--embedding": "embedding"}
    return next((task for flag, task in tasks.items() if switch_of(spec.args, flag)), None)


def _file_identity(path: Path) -> tuple[Path, int, int, int]:
    status = path.stat()
    return path, status.st_ino, status.st_size, status.st_mtime_ns


def _digest(text: str | None) -> bytes | None:
    """Stands for a template in a key: templates are long, and thousands of keys are kept."""
    # A word of the command line that is no UTF-8 arrives with lone surrogates, which only this handler encodes.
    return None if text is None else hashlib.sha256(text.encode(errors="surrogatepass")).digest()
