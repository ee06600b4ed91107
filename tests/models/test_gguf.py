from __future__ import annotations

import os
from pathlib import Path

import gguf as writer
import numpy as np
import pytest

from router.demo import write_tiny
from router.errors import GgufError
from router.models.gguf import read, read_model


def split(folder: Path, count: int = 3) -> list[Path]:
    paths = [folder / f"m-{n:05d}-of-{count:05d}.gguf" for n in range(1, count + 1)]
    for n, path in enumerate(paths):
        out = writer.GGUFWriter(path, "llama")
        out.add_uint16("split.count", count)
        out.add_uint16("split.no", n)
        if n == 0:
            out.add_block_count(7)
        out.add_tensor(f"t{n}", np.zeros(32, dtype=np.float32))
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_tensors_to_file()
        out.close()
    return paths


def test_shards_are_counted_whole(tmp_path: Path) -> None:  # B-D4
    paths = split(tmp_path)
    metadata = read_model(paths[0])
    assert [tensor.name for tensor in metadata.tensors] == ["t0", "t1", "t2"]
    assert metadata.file_bytes == sum(path.stat().st_size for path in paths)
    assert metadata.n_layers == 7


def test_missing_shard_is_named(tmp_path: Path) -> None:  # B-D4
    paths = split(tmp_path)
    paths[1].unlink()
    with pytest.raises(GgufError, match=r"m-00002-of-00003\.gguf is missing"):
        read_model(paths[0])


def test_later_or_renamed_shard_is_an_error(tmp_path: Path) -> None:
    paths = split(tmp_path)
    with pytest.raises(GgufError, match=r"name m-00001-of-00003\.gguf instead"):
        read_model(paths[1])
    with pytest.raises(GgufError, match="one of 3 shards, but its name does not"):
        read_model(paths[0].rename(tmp_path / "renamed.gguf"))


def test_cached_until_the_file_changes(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "a.gguf")
    assert read(path) is read(path)
    before = read(path)
    write_tiny(path, layers=1)
    assert read(path) is not before
    assert read(path).n_layers == 1


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "gone.gguf", tmp_path, tmp_path / "fifo", tmp_path / "a\0b"):
        with pytest.raises(GgufError):
            read(path)
