"""The models in the cache, by the names of llama.cpp, and when the cache is read again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from router.hub.cache import Cache, cache_root, find, repo_and_quant
from router.hub.names import Name
from router.hub.removal import remove
from tests.audit import looked
from tests.hub.caches import COMMIT, cached, names, scan


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


def test_models_are_listed_by_their_names(tmp_path: Path) -> None:
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


def test_a_missing_cache_is_empty(tmp_path: Path) -> None:
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
def test_models_are_found_by_quant(tmp_path: Path, files: list[str], quant: str, expected: str | None) -> None:  # B-H1
    cached(tmp_path, "user/m", *files)
    entry = find(tmp_path, f"user/m{quant}")
    assert (entry and entry.files[0].name) == expected


def test_models_are_found_by_file(tmp_path: Path) -> None:
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


def test_models_of_main_have_the_plain_name(tmp_path: Path) -> None:
    cached(tmp_path, "user/m", "m-Q2_K.gguf", commit="a" * 40, ref="branch")
    cached(tmp_path, "user/m", "m-Q8_0.gguf", commit="b" * 40)
    assert names(scan(tmp_path)) == ["user/m:Q2_K@branch", "user/m:Q8_0"]
    folder = cached(tmp_path, "user/m", commit="../../../x")
    assert names(scan(tmp_path)) == ["user/m:Q2_K", "user/m:Q2_K@branch"]
    shutil.rmtree(folder / "refs")
    assert scan(tmp_path) == ()


def test_files_whose_blob_is_gone_are_not_listed(tmp_path: Path) -> None:
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
def test_other_text_is_no_name(tmp_path: Path, name: str) -> None:  # B-H2
    assert repo_and_quant(name) is None
    assert find(tmp_path, name) is None


def test_a_large_cache_is_listed_with_few_calls(tmp_path: Path) -> None:
    for number in range(100):
        cached(tmp_path, f"user/m{number}", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-F16.gguf")
    with looked(tmp_path) as paths:
        assert len(scan(tmp_path)) == 200
    assert len(paths) == 1 + 100 * 7  # not more of each the more there are


def test_every_ref_but_main_stands_in_the_name(tmp_path: Path) -> None:  # B-H1
    cached(tmp_path, "user/m", "m-Q2_K.gguf", ref="refs/pr/1")
    cached(tmp_path, "user/m", "m-Q8_0.gguf", commit="b" * 40)
    (tmp_path / "models--user--m" / "refs" / ".left.tmp").write_text(COMMIT)
    assert names(scan(tmp_path)) == ["user/m:Q2_K@refs/pr/1", "user/m:Q8_0"]
    assert repo_and_quant("user/m@refs/pr/1") is None
    for revision in ("refs/pr/1", COMMIT):
        entry = find(tmp_path, f"user/m@{revision}")
        assert entry
        assert (entry.name, entry.repo) == (f"user/m:Q2_K@{revision}", "user/m")
    assert find(tmp_path, "user/m:Q2_K") is None
    assert find(tmp_path, "user/m@v2") is None
    assert remove(tmp_path, Name.parse("user/m@refs/pr/1")) == 100
    assert names(scan(tmp_path)) == ["user/m:Q8_0"]


def test_a_model_that_lacks_a_shard_is_not_listed(tmp_path: Path) -> None:  # B-H1
    cached(tmp_path, "user/m", "m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf")
    assert scan(tmp_path) == ()
    assert find(tmp_path, "user/m") is None


def test_an_unchanged_cache_is_not_read_again(tmp_path: Path) -> None:  # B-H5
    for number in range(20):
        cached(tmp_path, f"user/m{number}", "m-Q4_K_M.gguf", "sub/m-Q8_0.gguf")
    cache = Cache(tmp_path)
    settle(tmp_path)
    first = cache.entries(max_age=0)
    assert first == scan(tmp_path)
    assert len(first) == 40
    assert cache.entries(max_age=0) is first
    assert cache.entries() is first

    cached(tmp_path, "user/new", "n-Q8_0.gguf")
    assert len(cache.entries(max_age=0)) == 41
    assert len(cache.entries(max_age=60)) == 41


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "snapshots" / COMMIT / "m-Q2_K.gguf").symlink_to(folder / "blobs" / f"{COMMIT}-0"),
        lambda folder: (folder / "snapshots" / COMMIT / "sub" / "s-Q2_K.gguf").symlink_to(
            folder / "blobs" / f"{COMMIT}-0"
        ),
        lambda folder: (folder / "snapshots" / COMMIT / "m-Q8_0.gguf").unlink(),
        lambda folder: (folder / "blobs" / f"{COMMIT}-0").unlink(),
        lambda folder: (folder / "refs" / "main").write_text("b" * 40),
        lambda folder: (folder / "refs" / "v1").write_text(COMMIT),
        shutil.rmtree,
    ],
)
def test_changes_in_the_cache_are_seen(tmp_path: Path, change: Callable[[Path], object]) -> None:  # B-H5
    folder = cached(tmp_path, "user/m", "m-Q8_0.gguf", "sub/m-Q4_0.gguf")
    (folder / "snapshots" / ("b" * 40)).mkdir()
    cache = Cache(tmp_path)
    settle(tmp_path)
    before = cache.entries(max_age=0)
    change(folder)
    assert cache.entries(max_age=0) == scan(tmp_path)
    assert cache.entries(max_age=0) != before


def test_changes_in_quick_succession_are_seen(tmp_path: Path) -> None:  # B-H5
    """Even those that are faster than the clock by which the file system stamps a change."""
    cache = Cache(tmp_path)
    for number in range(50):
        cached(tmp_path, f"user/m{number % 2}", f"m-Q{number}_0.gguf")
        assert len(cache.entries(max_age=0)) == number + 1


def settle(root: Path) -> None:
    """Make all files old, so that a change gets another time."""
    for path in [root, *root.rglob("*")]:
        os.utime(path, (1, 1), follow_symlinks=False)


@pytest.mark.parametrize(
    ("lay", "words"),
    [
        (os.mkfifo, "named pipe"),
        (lambda ref: ref.symlink_to(ref.name), "leads back to itself"),
        (lambda ref: ref.symlink_to("/nowhere"), "is not there"),
    ],
)
def test_a_ref_that_cannot_be_read_is_told(  # B-F1
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lay: Callable[[Path], object], words: str
) -> None:
    ref = cached(tmp_path, "user/m", "m-Q8_0.gguf") / "refs" / "main"
    cached(tmp_path, "user/good", "m-Q8_0.gguf")
    ref.unlink()
    lay(ref)
    assert names(scan(tmp_path)) == ["user/good:Q8_0"]
    assert [str(ref) in line and words in line for line in caplog.messages] == [True]
