"""Pictures from files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.client.talk import pictures
from router.errors import FlagError

STARTS = {
    "png": b"\x89PNG\r\n\x1a\n",
    "jpeg": b"\xff\xd8\xff\xe0",
    "gif": b"GIF89a",
    "bmp": b"BM",
    "webp": b"RIFF\0\0\0\0WEBP",
}


@pytest.mark.parametrize("kind", STARTS)
def test_a_picture_becomes_a_data_url_of_what_it_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"  # its name says nothing
    path.write_bytes(STARTS[kind] + b"rest")
    assert pictures.is_file(str(path))
    found, url = pictures.read(str(path))
    assert found == path
    assert url.startswith(f"data:image/{kind};base64,")


def test_what_is_no_picture_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    with pytest.raises(FlagError, match="no picture that is known"):
        pictures.read(str(tmp_path / "secret.png"))
    os.mkfifo(tmp_path / "pipe.png")
    assert not pictures.is_file(str(tmp_path / "pipe.png"))
    with pytest.raises(FlagError, match="cannot be read"):
        pictures.read(str(tmp_path / "pipe.png"))
    with pytest.raises(FlagError, match="cannot be read"):
        pictures.read(str(tmp_path / "gone.png"))
    assert not pictures.is_file("a\0b.png")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(pictures.MAX_BYTES + 1)
    with pytest.raises(FlagError, match="larger than 24 MiB"):
        pictures.read(str(tmp_path / "large.png"))


def test_a_home_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(STARTS["png"])
    assert pictures.read("~/a.png")[0] == tmp_path / "a.png"
