"""Ollama's store: what its manifests say, what cannot be used, and what is read again."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import CatalogError
from router.models.folder import FoundModel
from router.models.spec import Package
from router.models.stores import ollama
from router.models.stores.ollama import OllamaStore
from tests.models.stores.laid import GGUF_CONFIG, Laid
from tests.waiting import until


@pytest.fixture
def laid(tmp_path: Path) -> Laid:
    return Laid(tmp_path / "store")


def found(laid: Laid, name: str) -> FoundModel:
    return OllamaStore(laid.root).read().models[name]


def package(laid: Laid, name: str) -> Package:
    package = found(laid, name).package
    assert package
    return package


def test_layers_become_files_parameters_and_prompts(laid: Laid) -> None:  # B-F3
    model, projector = laid.layer("model", b"weights"), laid.layer("projector", b"eyes")
    adapters = [laid.layer("adapter", content) for content in (b"one", b"two")]
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}, {"role": "tool"}, 5]
    layers = [
        *(model, projector, *adapters),
        laid.layer("params", {"num_ctx": 512, "temperature": 0.5, "stop": ["a", "b"], "mystery": 1}),
        laid.layer("system", "Be brief.\n"),
        laid.layer("messages", messages),
        laid.layer("license", "MIT"),
        laid.layer("template", "{{ .Prompt }}"),
    ]
    path = laid.model("mario", layers)
    model_found = found(laid, "mario:latest")
    paths = [laid.root / "blobs" / layer["digest"].replace(":", "-") for layer in layers]
    assert (model_found.source, model_found.problem) == ("ollama", None)
    assert (model_found.path, model_found.mmproj, model_found.adapters) == (paths[0], paths[1], tuple(paths[2:4]))
    said = package(laid, "mario:latest")
    assert said.system == "Be brief."
    assert said.parameters == {"num_ctx": 512, "temperature": 0.5, "stop": ["a", "b"]}
    assert dict(said.defaults) == {"temperature": "0.5", "stop": '["a", "b"]'}
    assert said.load == (("--ctx-size", "512"),)
    assert said.messages == tuple(messages[:2])
    assert said.licenses == (paths[7],)
    assert said.notes == ("its parameter mystery has no effect here",)
    assert said.modified_at == path.stat().st_mtime
    assert said.details == {
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "3.2B",
        "quantization_level": "Q4_K_M",
    }
    assert "Be brief" not in repr(said)


def _broken(name: str) -> Callable[[Laid], Any]:
    def lay(laid: Laid) -> None:
        model = laid.layer("model", b"weights")
        match name:
            case "several":
                laid.model("m", [model, laid.layer("model", b"more")])
            case "none":
                laid.model("m", [laid.layer("license", "MIT")])
            case "tensors":
                laid.model("m", [laid.layer("tensor", b"t")], {})
            case "safetensors":
                laid.model("m", [model], {**GGUF_CONFIG, "model_format": "safetensors"})
            case "cloud":
                laid.model("m", [], {"remote_host": "https://ollama.com:443", "remote_model": "m"})
            case "gone":
                laid.model("m", [model])
                laid.blob(b"weights").unlink()
            case "params":
                laid.model("m", [model, laid.layer("params", "[1]")])
            case "messages":
                laid.model("m", [model, laid.layer("messages", "{}")])
            case "config":
                laid.model("m", [model], [])  # type: ignore[arg-type]
            case "large":
                laid.write("m", b" " * (ollama.MAX_MANIFEST_BYTES + 1))
            case "empty":
                laid.write("m", b"")
            case "pipe":
                laid.manifest("m").parent.mkdir(parents=True)
                os.mkfifo(laid.manifest("m"))
            case "loop":
                laid.manifest("m").parent.mkdir(parents=True)
                laid.manifest("m").symlink_to("latest")

    return lay


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("several", "split into 2 files"),
        ("none", "names no model file"),
        ("tensors", "made of safetensors"),
        ("safetensors", "made of safetensors"),
        ("cloud", "runs on 'https://ollama.com:443' alone"),
        ("gone", "of its model is missing"),
        ("params", "its params is no JSON object"),
        ("messages", "its messages are no list"),
        ("config", "its config is no JSON object"),
        ("large", "larger than 4 MiB"),
        ("empty", "no JSON"),
        ("pipe", "named pipe"),
        ("loop", "cannot be read"),
    ],
)
def test_a_model_that_cannot_be_used_says_why_and_costs_no_other(laid: Laid, name: str, reason: str) -> None:  # B-F3
    _broken(name)(laid)
    laid.model("good:1b", [laid.layer("model", b"good")])
    read = OllamaStore(laid.root).read()
    assert read.models.keys() == {"m:latest", "good:1b"}
    problem = read.models["m:latest"].problem
    assert problem
    assert reason in problem
    assert read.models["good:1b"].problem is None
    assert read.warnings == [problem]


def test_changes_are_seen_and_nothing_else_is_read_again(laid: Laid, monkeypatch: pytest.MonkeyPatch) -> None:  # B-F3
    def changed(store: OllamaStore) -> None:
        until(lambda: not store.is_current())

    model = laid.layer("model", b"weights")
    path = laid.model("m", [model])
    laid.model("other", [model])
    old = time.time() - 100
    for each in laid.root.rglob("*"):
        os.utime(each, (old, old))
    store = OllamaStore(laid.root)
    before = store.read().models
    assert store.is_current()
    again = store.read().models
    assert again["m:latest"] is before["m:latest"]
    path.write_bytes(path.read_bytes())  # as a pull of the same tag does
    changed(store)
    assert store.read().models["other:latest"] is before["other:latest"]
    laid.model("new", [model])
    changed(store)
    assert "new:latest" in store.read().models
    laid.manifest("new").unlink()
    changed(store)
    assert "new:latest" not in store.read().models
    blob = laid.blob(b"weights")
    blob.unlink()
    changed(store)
    assert store.read().models["m:latest"].problem
    laid.blob(b"weights")
    changed(store)
    assert store.read().models["m:latest"].problem is None


def test_what_is_no_name_is_passed_over_and_their_number_has_a_bound(
    laid: Laid, monkeypatch: pytest.MonkeyPatch
) -> None:  # B-F3
    model = laid.layer("model", b"weights")
    for name in ("a", "b", "c"):
        laid.model(name, [model])
    (laid.root / "manifests" / ".DS_Store").touch()
    (laid.manifest("a").parent / "a folder").mkdir()
    (laid.manifest("a").parent / ".hidden").touch()
    os.mkdir(os.path.join(os.fsencode(laid.root / "manifests"), b"\xff"))
    (laid.root / "manifests" / "loop").symlink_to(".")
    assert list(OllamaStore(laid.root).read().models) == ["a:latest", "b:latest", "c:latest"]
    monkeypatch.setattr(ollama, "MAX_MANIFESTS", 2)
    read = OllamaStore(laid.root).read()
    assert len(read.models) == 2
    assert "more than 2 models" in read.warnings[0]


@settings(max_examples=40)
@given(
    st.dictionaries(st.sampled_from(["layers", "config", "x"]), st.integers() | st.text() | st.lists(st.none())),
    st.lists(st.sampled_from(["model", "params", "system", "messages", "projector", "adapter", "license"])),
    st.binary(max_size=20) | st.sampled_from([b"{}", b"[]", b'{"num_ctx":9}', b'[{"role":"user","content":1}]']),
)
def test_whatever_lies_there_is_read(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any], kinds: list[str], content: bytes
) -> None:  # B-F3
    laid = Laid(tmp_path_factory.mktemp("store") / "s")
    laid.write("odd", json.dumps(fields))
    laid.model("mixed", [laid.layer(kind, content) for kind in kinds])
    laid.model("good", [laid.layer("model", b"weights")])
    read = OllamaStore(laid.root).read()
    assert read.models.keys() == {"odd:latest", "mixed:latest", "good:latest"}
    assert read.models["odd:latest"].problem
    assert read.models["good:latest"].problem is None


def test_what_is_no_manifest_is_not_told_by_its_hash(laid: Laid, tmp_path: Path) -> None:  # B-F3
    (tmp_path / "secret").write_text("1234")
    laid.manifest("m").parent.mkdir(parents=True)
    laid.manifest("m").symlink_to(tmp_path / "secret")
    assert package(laid, "m:latest").digest == ""


def test_an_adapter_with_a_comma_in_its_path_is_none(tmp_path: Path) -> None:
    laid = Laid(tmp_path / "a,b")
    laid.model("plain", [laid.layer("model", b"weights")])
    laid.model("adapted", [laid.layer("model", b"weights"), laid.layer("adapter", b"lora")])
    models = OllamaStore(laid.root).read().models
    assert models["plain:latest"].problem is None
    assert "a comma in its path" in (models["adapted:latest"].problem or "")


def test_a_store_that_has_gone_is_an_error_and_an_empty_one_is_not(laid: Laid, tmp_path: Path) -> None:  # B-F3
    laid.model("m", [laid.layer("model", b"weights")])
    store = OllamaStore(laid.root)
    assert store.read().models
    away = laid.root.rename(tmp_path / "away")
    with pytest.raises(CatalogError, match="it has gone"):
        store.read()
    assert store.is_current(), "until it comes back"
    away.rename(laid.root)
    until(lambda: not store.is_current())
    assert store.read().models
    shutil.rmtree(laid.root / "manifests")  # as Ollama does with the last model
    until(lambda: not store.is_current())
    assert store.read().models == {}
    laid.model("m", [laid.layer("model", b"weights")])
    until(lambda: not store.is_current())
    assert store.read().models


def test_half_a_character_goes_nowhere(laid: Laid) -> None:  # B-F3
    half, whole = "\ud800", "\U0001f600"
    messages = [{"role": "user", "content": f"a{half}{whole}"}]
    params = {"stop": [half, whole]}
    layers = [laid.layer("model", b"weights"), laid.layer("params", params), laid.layer("messages", messages)]
    laid.model("m", layers, {**GGUF_CONFIG, "model_family": half, "model_families": [half]})
    laid.model("raw", [layers[0], laid.layer("messages", b'[{"role": "user", "content": "\xed\xa0\x80"}]')])
    raw = OllamaStore(laid.root).read().models["raw:latest"].package
    assert raw
    assert raw.messages[0]["content"].encode().replace(b"?", b"") == b""
    package = OllamaStore(laid.root).read().models["m:latest"].package
    assert package
    assert package.messages == ({"role": "user", "content": f"a?{whole}"},)
    assert package.parameters == {"stop": ["?", whole]}
    assert (package.details["family"], package.details["families"]) == ("?", ["?"])


def test_another_format_is_named(laid: Laid) -> None:  # B-F3
    laid.model("m", [laid.layer("model", b"weights")], {**GGUF_CONFIG, "model_format": "ggmlv3"})
    problem = OllamaStore(laid.root).read().models["m:latest"].problem
    assert problem
    assert "its format is 'ggmlv3'" in problem
