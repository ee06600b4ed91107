from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from router.hub import CacheEntry, cache_root, find, scan, split

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(root: Path, repo: str, *files: str, commit: str = COMMIT, ref: str = "main") -> Path:
    """A repository in the cache as huggingface_hub leaves it: links into `blobs`."""
    folder = root / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / ref).write_text(commit)
    (folder / "blobs").mkdir(exist_ok=True)
    for number, name in enumerate(files):
        blob = folder / "blobs" / f"{commit}-{number}"
        blob.write_bytes(bytes(100 + number))
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return folder


def names(entries: tuple[CacheEntry, ...]) -> list[str]:
    return [entry.name for entry in entries]


def test_cache_root_follows_llama_cpp_s_order() -> None:
    environ = {
        "LLAMA_CACHE": "/1",
        "HF_HUB_CACHE": "/2",
        "HUGGINGFACE_HUB_CACHE": "/3",
        "HF_HOME": "/4",
        "XDG_CACHE_HOME": "/5",
        "HOME": "/6",
    }
    seen = []
    for variable in list(environ):
        seen.append(cache_root(environ).as_posix())
        del environ[variable]
    assert seen == ["/1", "/2", "/3", "/4/hub", "/5/huggingface/hub", "/6/.cache/huggingface/hub"]
    assert cache_root({"LLAMA_CACHE": "", "HOME": "/6"}) == Path("/6/.cache/huggingface/hub")


def test_scan(tmp_path: Path) -> None:
    cached(
        tmp_path,
        "user/Model-GGUF",
        "Model-Q8_0.gguf",
        "Model-UD-Q4_K_XL.gguf",
        "mmproj-F16.gguf",
        "imatrix-Q4_0.gguf",
        "mtp-Model-Q8_0.gguf",
        "sub/Model-Q8_0.gguf",
        "README.md",
        "untagged.gguf",
    )
    cached(tmp_path, "other/x.i1-GGUF", "x.i1-q4_k_m.gguf")
    (tmp_path / "datasets--a--b").mkdir()
    (tmp_path / "models--broken").mkdir()
    entries = scan(tmp_path)
    assert names(entries) == ["other/x.i1-GGUF:Q4_K_M", "user/Model-GGUF:Q4_K_XL", "user/Model-GGUF:Q8_0"]
    assert [entry.mmproj and entry.mmproj.name for entry in entries] == [None, "mmproj-F16.gguf", "mmproj-F16.gguf"]
    assert (entries[2].repo, entries[2].files[0].name, entries[2].bytes) == ("user/Model-GGUF", "Model-Q8_0.gguf", 100)


def test_no_cache(tmp_path: Path) -> None:
    assert scan(tmp_path / "missing") == ()
    assert find(tmp_path / "missing", "a/b") is None


def test_shards_are_one_entry(tmp_path: Path) -> None:  # B-H1
    shards = [f"Q4_K_M/big-Q4_K_M-{n:05d}-of-00003.gguf" for n in (1, 2, 3)]
    cached(tmp_path, "user/big", *shards, "Q8_0/big-Q8_0-00002-of-00002.gguf")
    (entry,) = scan(tmp_path)
    assert entry.name == "user/big:Q4_K_M"
    assert [file.name for file in entry.files] == [Path(shard).name for shard in shards]
    assert entry.bytes == 100 + 101 + 102


@pytest.mark.parametrize(
    ("files", "quant", "expected"),
    [
        (["m-BF16.gguf", "m-F16.gguf"], ":f16", "m-F16.gguf"),
        (["m-BF16.gguf"], ":F16", None),
        (["m-Q4_K_M.gguf"], ":Q4_K", None),
        (["m-Q4_K_M.gguf"], ":K_M", None),
        (["m-UD-Q4_K_XL.gguf", "n-Q4_K_M.gguf"], ":UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        (["m-UD-Q4_K_XL.gguf"], ":Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        (["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"], "", "m-Q4_K_M.gguf"),
        (["m-Q8_0.gguf", "m-Q2_K.gguf"], "", "m-Q8_0.gguf"),
        (["m-Q6_K.gguf", "m-Q2_K.gguf"], "", "m-Q2_K.gguf"),
        (["m-Q2_K.gguf"], ":Q8_0", None),
        (["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"], ":q8_0", "m-Q8_0-00001-of-00002.gguf"),
    ],
)
def test_find(tmp_path: Path, files: list[str], quant: str, expected: str | None) -> None:  # B-H1
    cached(tmp_path, "user/m", *files)
    entry = find(tmp_path, f"user/m{quant}")
    assert (entry and entry.files[0].name) == expected


def test_find_by_file(tmp_path: Path) -> None:
    cached(tmp_path, "user/m", "a/model.gguf", "m-Q6_K.gguf")
    assert names(scan(tmp_path)) == ["user/m:Q6_K"]
    for found in (find(tmp_path, "user/m"), find(tmp_path, "user/m:Q6_K", "a/model.gguf")):
        assert found is not None
        assert found.files[0].name == "model.gguf"
    assert find(tmp_path, "user/m", "model-Q2_K.gguf") is None


def test_projector_is_the_nearest_then_f16(tmp_path: Path) -> None:  # B-H1
    cached(
        tmp_path,
        "user/v",
        "v-Q4_K_M.gguf",
        "mmproj-BF16.gguf",
        "mmproj-F16.gguf",
        "mmproj-F32.gguf",
        "sub/v-Q8_0.gguf",
        "sub/mmproj-v-bf16.gguf",
        "other/mmproj-F16.gguf",
    )
    found = {entry.name: entry.mmproj for entry in scan(tmp_path)}
    assert found["user/v:Q4_K_M"] is not None
    assert found["user/v:Q4_K_M"].name == "mmproj-F16.gguf"
    assert found["user/v:Q8_0"] is not None
    assert found["user/v:Q8_0"].name == "mmproj-v-bf16.gguf"


def test_commit_of_main(tmp_path: Path) -> None:
    cached(tmp_path, "user/m", "m-Q2_K.gguf", commit="a" * 40, ref="branch")
    cached(tmp_path, "user/m", "m-Q8_0.gguf", commit="b" * 40)
    assert names(scan(tmp_path)) == ["user/m:Q2_K@branch", "user/m:Q8_0"]
    folder = cached(tmp_path, "user/m", commit="../../../x")
    assert names(scan(tmp_path)) == ["user/m:Q2_K", "user/m:Q2_K@branch"]
    shutil.rmtree(folder / "refs")
    assert scan(tmp_path) == ()


def test_file_whose_blob_is_gone(tmp_path: Path) -> None:
    folder = cached(tmp_path, "user/m", "m-Q2_K.gguf", "m-Q8_0.gguf")
    (folder / "blobs" / f"{COMMIT}-0").unlink()
    assert names(scan(tmp_path)) == ["user/m:Q8_0"]


@pytest.mark.parametrize(
    "name",
    [
        *("", "a", "a/", "/a", "../a", "a/..", "a/../b", "a/b/c", "a/.b", "a/b:", "a/b:../c", "a/b:*", "a/b\n"),
        *("a/b\0", "ä/b", "a--b/c", "-a/b", "a/b:" + "q" * 300),
    ],
)
def test_names_that_are_none(tmp_path: Path, name: str) -> None:  # B-H2
    assert split(name) is None
    assert find(tmp_path, name) is None


def test_a_large_cache_is_scanned_fast(tmp_path: Path) -> None:
    for number in range(100):
        cached(tmp_path, f"user/m{number}", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-F16.gguf")
    began = time.perf_counter()
    assert len(scan(tmp_path)) == 200
    assert time.perf_counter() - began < 1
