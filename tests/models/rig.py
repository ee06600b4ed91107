"""What tests of the catalog are made of: files with nothing in them, a cache, and small GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    arch: str | None,
    switches: Mapping[str, bool] | None = None,
    *,
    kind: str | None = None,
    pooling: writer.PoolingType | None = None,
    template: str | None = None,
    tensor: str = "t",
) -> Path:
    """A GGUF file with these switches in its header, and one tensor if that has a name. Its type is `kind`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    out = writer.GGUFWriter(path, arch or "x")
    if arch is None:
        out.kv_data[0].pop("general.architecture")
    if kind:
        out.add_type(kind)
    for key, value in (switches or {}).items():
        out.add_bool(key, value)
    if pooling is not None:
        out.add_pooling_type(pooling)
    if template:
        out.add_chat_template(template)
    if tensor:
        out.add_tensor(tensor, np.zeros(32, dtype=np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


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
