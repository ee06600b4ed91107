"""Models leave the cache, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.errors import Forbidden, UnknownModel
from router.hub.cache import find
from router.hub.names import Name
from router.hub.removal import only_model, remove
from tests.hub.caches import COMMIT, cached, names, scan


def left(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())


def test_remove_frees_the_blobs_of_one_model(tmp_path: Path) -> None:
    files = ("Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf", "m-Q2_K.gguf", "mmproj-F16.gguf")
    folder = cached(tmp_path, "user/m", *files)
    assert remove(tmp_path, Name.parse("user/m:q8_0")) == 100 + 101
    assert names(scan(tmp_path)) == ["user/m:Q2_K"]
    assert left(folder / "blobs") == [f"{COMMIT}-2", f"{COMMIT}-3"]
    assert left(folder / "snapshots" / COMMIT) == ["m-Q2_K.gguf", "mmproj-F16.gguf"]
    assert not (folder / "snapshots" / COMMIT / "Q8_0").exists()


def test_remove_of_the_last_model_takes_its_companions(tmp_path: Path) -> None:
    folder = cached(tmp_path, "user/m", "m-Q8_0.gguf", "mmproj-F16.gguf")
    other = cached(tmp_path, "user/other", "o-Q8_0.gguf", "README.md")
    (tmp_path / ".locks" / folder.name).mkdir(parents=True)
    assert remove(tmp_path, Name.parse("user/m:Q8_0")) == 201
    assert remove(tmp_path, Name.parse("user/other:Q8_0")) == 100
    assert not folder.exists()
    assert not (tmp_path / ".locks" / folder.name).exists()
    assert left(other / "snapshots" / COMMIT) == ["README.md"]


def test_remove_leaves_a_download_alone(tmp_path: Path) -> None:
    folder = cached(tmp_path, "user/m", "m-Q8_0.gguf")
    (folder / "blobs" / "other.incomplete").write_bytes(b"part")
    assert remove(tmp_path, Name.parse("user/m:Q8_0")) == 100
    assert left(folder / "blobs") == ["other.incomplete"]
    assert scan(tmp_path) == ()


def test_remove_of_a_repository(tmp_path: Path) -> None:
    cached(tmp_path, "user/m", "m-Q8_0.gguf", "m-Q2_K.gguf", "README.md")
    cached(tmp_path, "user/mm", "m-Q8_0.gguf")
    assert remove(tmp_path, Name.parse("user/m")) == 303
    assert names(scan(tmp_path)) == ["user/mm:Q8_0"]
    for name in ("user/m", "user/m:Q8_0", "user/mm:Q2_K"):
        with pytest.raises(UnknownModel):
            remove(tmp_path, Name.parse(name))


def test_remove_leaves_what_others_use(tmp_path: Path) -> None:
    """Another file of the same content, another ref; but not a commit that no ref names any more."""
    folder = cached(tmp_path, "user/m", "m-Q8_0.gguf", "m-Q2_K.gguf", "m-Q4_0.gguf", ref="old")
    blobs = [folder / "blobs" / f"{COMMIT}-{number}" for number in range(3)]
    main = folder / "snapshots" / ("b" * 40)
    main.mkdir()
    (folder / "refs" / "main").write_text("b" * 40)
    for name, blob in zip(
        ("m-Q8_0.gguf", "m-Q2_K.gguf", "copy-Q2_K.gguf", "m-Q4_0.gguf"), blobs[:2] + blobs[1:], strict=True
    ):
        (main / name).symlink_to(blob)
    assert remove(tmp_path, Name.parse("user/m:Q8_0")) == 0
    assert names(scan(tmp_path))[-1] == "user/m:Q8_0@old"
    (folder / "refs" / "old").unlink()
    assert remove(tmp_path, Name.parse("user/m:Q4_0")) == 102
    (main / "m-Q8_0.gguf").symlink_to(blobs[0])
    assert remove(tmp_path, Name.parse("user/m:Q8_0")) == 100
    assert remove(tmp_path, Name.parse("user/m:Q2_K")) == 0
    assert names(scan(tmp_path)) == ["user/m:Q2_K"]
    assert remove(tmp_path, Name.parse("user/m:Q2_K")) == 101


def test_remove_touches_nothing_outside(tmp_path: Path) -> None:  # B-H2
    outside, root = tmp_path / "outside", tmp_path / "cache"
    precious = outside / "blobs" / "precious-Q8_0.gguf"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"precious")
    folder = cached(root, "user/m", "m-Q2_K.gguf")
    snapshot = folder / "snapshots" / COMMIT
    (snapshot / "m-Q8_0.gguf").symlink_to(precious)
    (snapshot / "sub").symlink_to(precious.parent)
    (folder / "snapshots" / ("d" * 40)).symlink_to(precious.parent)
    (precious.parent / "m-Q2_K.gguf").write_bytes(b"precious too")
    (snapshot / "m-Q4_0.gguf").symlink_to(folder / "blobs" / ".." / ".." / ".." / "outside" / "blobs" / precious.name)
    for quant in ("Q8_0", "Q4_0", "Q2_K"):
        if find(root, f"user/m:{quant}"):
            remove(root, Name("user/m", quant))
    assert left(outside) == ["blobs/m-Q2_K.gguf", "blobs/precious-Q8_0.gguf"]

    (root / "models--user--link").symlink_to(cached(outside, "user/link", "l-Q8_0.gguf"))
    for name in ("user/link", "user/link:Q8_0"):
        with pytest.raises(Forbidden, match="is a link"):
            remove(root, Name.parse(name))
    blobs = cached(root, "user/far", "f-Q8_0.gguf", "f-Q2_K.gguf") / "blobs"
    blobs.rename(outside / "far")
    blobs.symlink_to(outside / "far")
    assert remove(root, Name.parse("user/far:Q8_0")) == 0
    assert "user/far:Q2_K" in names(scan(root))
    assert len(left(outside / "far")) == 2


def test_remove_takes_names_as_names(tmp_path: Path) -> None:  # B-H6
    cached(tmp_path, "user/m", "m-UD-Q4_K_XL.gguf", "m-Q4_K_XL.gguf", "m-Q2_K.gguf")
    assert str(only_model(tmp_path, Name.parse("hf.co/USER/m:ud-q4_k_xl"))) == "user/m:UD-Q4_K_XL"
    assert remove(tmp_path, Name.parse("https://hf.co/User/M:Q4_k_xl")) == 101
    assert names(scan(tmp_path)) == ["user/m:Q2_K", "user/m:Q4_K_XL"]
    with pytest.raises(UnknownModel):  # what is deleted is named exactly
        remove(tmp_path, Name.parse("user/m:UD-Q2_K"))
    assert remove(tmp_path, Name.parse("user/m:UD-Q4_K_XL")) == 100
    assert names(scan(tmp_path)) == ["user/m:Q2_K"]
