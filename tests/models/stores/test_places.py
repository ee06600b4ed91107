"""Where the stores are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from router.errors import CatalogError
from router.models.stores import places
from router.models.stores.places import AUTO, lm_studio, ollama
from tests.models.stores.laid import Laid


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(places, "_OF_SERVICES", (str(tmp_path / "service" / "models"),))
    return tmp_path


def test_no_store_unless_it_is_asked_for() -> None:
    assert ollama(None, {"OLLAMA_MODELS": "/x"}) == lm_studio(None, {}) == []


def test_ollamas_usual_places(home: Path) -> None:  # B-F3
    with pytest.raises(CatalogError, match=r"no store of Ollama at .*/\.ollama/models, .*/service/models; name"):
        ollama(AUTO, {})
    service = Laid(home / "service" / "models")
    assert [store.root for store in ollama(AUTO, {})] == [service.root]
    own = Laid(home / ".ollama" / "models")
    assert [store.root for store in ollama(AUTO, {})] == [own.root, service.root]
    elsewhere = Laid(home / "elsewhere")
    environ = {"OLLAMA_MODELS": "~/elsewhere"}
    assert [store.root for store in ollama(AUTO, environ)] == [elsewhere.root]
    with pytest.raises(CatalogError, match=r"no store of Ollama at /gone;"):
        ollama(AUTO, {"OLLAMA_MODELS": "/gone"})


def test_a_store_with_two_names_is_read_once(home: Path) -> None:
    Laid(home / "service" / "models")
    (home / ".ollama").symlink_to(home / "service")
    assert [store.root for store in ollama(AUTO, {})] == [home / ".ollama" / "models"]


def test_a_folder_that_is_named(home: Path) -> None:  # B-F3
    laid = Laid(home / "x" / "models")
    for folder in (laid.root, laid.root.parent):
        assert [store.root for store in ollama(str(folder), {})] == [laid.root]
    with pytest.raises(CatalogError, match=r"gone: it is no folder; name the folder that holds manifests"):
        ollama(str(home / "gone"), {})
    (laid.root / "manifests").rmdir()  # Ollama has removed its last model
    assert [store.root for store in ollama(str(laid.root), {})] == [laid.root]
    (home / "empty").mkdir()
    with pytest.raises(CatalogError, match="it is no store of Ollama"):
        ollama(str(home / "empty"), {})


@pytest.mark.skipif(os.geteuid() == 0, reason="this machine's user is root, who may read everything")
def test_a_store_that_may_not_be_read_is_said_so(home: Path) -> None:
    Laid(home / "service" / "models").root.chmod(0)
    with pytest.raises(CatalogError, match="add the user to the group"):
        ollama(AUTO, {})
    (home / "service" / "models").chmod(0o700)


def test_lm_studios_folder(home: Path) -> None:  # B-F3
    with pytest.raises(CatalogError, match=r"there is no folder .*/\.lmstudio/models; name"):
        lm_studio(AUTO, {})

    def folder() -> Path:
        (store,) = lm_studio(AUTO, {})
        return store.root

    for name in (".cache/lm-studio/models", ".lmstudio/models", "pointed/models", "settings"):
        (home / name).mkdir(parents=True)
        match name:
            case "pointed/models":
                (home / ".lmstudio-home-pointer").write_text(f"{home / 'pointed'}\n")
            case "settings":
                (home / "pointed" / "settings.json").write_text(json.dumps({"downloadsFolder": str(home / name)}))
        assert folder() == home / name
    for content in ("{", "[]", '{"downloadsFolder": 5}', '{"downloadsFolder": "a\\u0000b"}', "{}"):
        (home / "pointed" / "settings.json").write_text(content)
        assert folder() == home / "pointed" / "models"
    (home / ".lmstudio-home-pointer").write_text("/gone")
    assert folder() == home / ".lmstudio" / "models"
    (store,) = lm_studio(str(home / "settings"), {})
    assert store.root == home / "settings"
