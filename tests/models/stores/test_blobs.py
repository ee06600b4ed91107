"""The files of Ollama's layers, some of them hostile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.models.spec import Package
from router.models.stores.blobs import MAX_TEXT_BYTES, Blobs, licenses
from router.models.stores.manifest import Layer, Unusable
from tests.models.stores.laid import Laid


@pytest.fixture
def laid(tmp_path: Path) -> Laid:
    return Laid(tmp_path / "store")


def layer_of(path: Path, size: int = 0) -> Layer:
    return Layer("system", path.name[-64:], size)


def test_texts_are_read_and_weights_are_found(laid: Laid) -> None:  # B-F3
    path = laid.blob("Be brief.")
    blobs = Blobs(laid.root)
    assert blobs.text(layer_of(path)) == b"Be brief."
    assert blobs.weights(layer_of(path, 9)) == path
    old = path.rename(path.with_name(path.name.replace("-", ":")))  # as in 2023
    assert blobs.weights(layer_of(path)) == old


def test_what_is_missing_or_changed_is_said(laid: Laid) -> None:  # B-F3
    blobs, path = Blobs(laid.root), laid.blob("Be brief.")
    with pytest.raises(Unusable, match="has 9 bytes and should have 10"):
        blobs.weights(layer_of(path, 10))
    path.write_text("Be long..")
    with pytest.raises(Unusable, match="another content"):
        blobs.text(layer_of(path))
    path.unlink()
    with pytest.raises(Unusable, match="of its system is missing: pull"):
        blobs.weights(layer_of(path))
    path.with_name(f"{path.name}-partial").touch()
    with pytest.raises(Unusable, match="still downloading"):
        blobs.weights(layer_of(path))
    path.mkdir()
    for read in (blobs.weights, blobs.text):
        with pytest.raises(Unusable):
            read(layer_of(path))


def test_texts_have_a_bound(laid: Laid) -> None:
    path = laid.blob("x" * (MAX_TEXT_BYTES + 1))
    with pytest.raises(Unusable, match="larger than 1 MiB"):
        Blobs(laid.root).text(layer_of(path))


def test_no_link_leads_out_of_the_store(laid: Laid, tmp_path: Path) -> None:  # B-F3
    secret = tmp_path / "secret"
    secret.write_text("key")
    path = laid.blob("key")
    path.unlink()
    path.symlink_to(secret)
    for read in (Blobs(laid.root).weights, Blobs(laid.root).text):
        with pytest.raises(Unusable, match="link that leads out"):
            read(layer_of(path))
    other = laid.root / "blobs" / "other"
    other.write_text("key")
    path.unlink()
    path.symlink_to("other")
    assert Blobs(laid.root).text(layer_of(path)) == b"key"
    # The whole folder may lie on another disk: the operator has put the link there.
    moved = (laid.root / "blobs").rename(tmp_path / "moved")
    (laid.root / "blobs").symlink_to(moved)
    assert Blobs(laid.root).text(layer_of(path)) == b"key"


def test_nothing_waits_for_a_pipe(laid: Laid) -> None:  # B-F3
    path = laid.blob("x")
    path.unlink()
    os.mkfifo(path)
    for read in (Blobs(laid.root).weights, Blobs(laid.root).text):
        with pytest.raises(Unusable, match="not a regular file"):
            read(layer_of(path))


def test_licenses_are_texts_that_are_what_they_say(laid: Laid) -> None:
    good, bad = laid.blob("MIT"), laid.blob("other")
    bad.write_text("changed")
    package = Package("Ollama", "", 0.0, 0, licenses=(good, bad, laid.root / "blobs" / "gone"))
    assert licenses(package) == ["MIT"]
