"""What tests of the catalog are made of: files with nothing in them, a cache, and small GGUF files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf as writer
import numpy as np

from router.engine.flags import default_table
from router.models.catalog import Catalog
from router.models.ini import Problem
from router.models.presets import Preset, parse

TABLE = default_table()
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Build = Callable[..., Catalog]  # `build("--ctx-size 512", preset="[a]...", models_dir=...)`


def put(path: Path, size: int = 10) -> Path:
    """A file of zeros."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def put_cached(cache: Path, repo: str, *files: str) -> Path:
    """A repository in the cache with these files. Returns the folder of its snapshot."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for name in files:
        put(folder / "snapshots" / COMMIT / name)
    return folder / "snapshots" / COMMIT


def model_names(catalog: Catalog) -> list[str]:
    return [spec.name for spec in catalog.models]


def write_header(
    path: Path,
    arch: str,
    switches: dict[str, bool],
    pooling: writer.PoolingType | None = None,
    template: str | None = None,
) -> None:
    """A GGUF file with these switches in its header, and one tensor."""
    out = writer.GGUFWriter(path, arch)
    for key, value in switches.items():
        out.add_bool(key, value)
    if pooling is not None:
        out.add_pooling_type(pooling)
    if template:
        out.add_chat_template(template)
    out.add_tensor("t", np.zeros(32, dtype=np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def sound(text: str) -> tuple[Preset, ...]:
    """The presets of a text without mistakes."""
    file, problems = parse(text, TABLE)
    assert not problems
    return file.presets


def one_preset(text: str) -> Preset:
    (preset,) = sound(text if text.startswith("[") else f"[a]\n{text}")
    return preset


def mistakes(text: str) -> tuple[Problem, ...]:
    return parse(text, TABLE)[1]


def one_mistake(text: str) -> Problem:
    (problem,) = mistakes(text)
    return problem
