"""Manifests of Ollama's store: names and layers."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.models.stores.manifest import Layer, Unusable, name_of, parse

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ("registry.ollama.ai/library/llama3.2/latest", "llama3.2:latest"),
        ("registry.ollama.ai/mario/plumber/v1", "mario/plumber:v1"),
        ("hf.co/user/Repo-GGUF/Q4_K_M", "hf.co/user/Repo-GGUF:Q4_K_M"),
        ("localhost:5000/library/m/1", "localhost:5000/library/m:1"),
        ("registry.ollama.ai/library/m/.DS_Store", None),
        ("registry.ollama.ai/library/a b/latest", None),
        ("registry.ollama.ai/library/m\n/latest", None),
        ("registry.ollama.ai/library/ü/latest", None),
        ("registry.ollama.ai/../m/latest", None),
        (f"registry.ollama.ai/library/{'m' * 81}/latest", None),
    ],
)
def test_names_are_those_of_ollamas_list(parts: str, name: str | None) -> None:  # B-F3
    assert name_of(*parts.split("/")) == name


def _of(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_layers_have_kinds_and_sizes() -> None:
    layers = [
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{DIGEST.upper()}", "size": 5},
        {"mediaType": "application/vnd.ollama.image.tensor; name=x", "digest": f"sha256-{DIGEST}", "size": -1},
        {"mediaType": 5, "digest": f"sha256:{DIGEST}", "size": True},
    ]
    manifest = parse(_of(layers=layers, config={"digest": f"sha256:{DIGEST}", "size": 7}))
    assert list(manifest.layers) == [Layer("model", DIGEST, 5), Layer("tensor", DIGEST, 0), Layer("", DIGEST, 0)]
    assert manifest.size == 12
    assert parse(_of(layers=None, config={"digest": ""})).config is None


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\xff", b"[]", b"null", b"5", b"[" * 100_000, b'{"a":' * 100_000),
        _of(layers={}),
        _of(layers=[None]),
        _of(layers=[{}]),
        *(
            _of(layers=[{"digest": digest}])
            for digest in (
                *("sha256-../../../../etc/passwd", "sha256:../x", "", None, 5, f"sha256:{DIGEST}/../x"),
                *(f"sha256:{DIGEST}\n", f"md5:{DIGEST}", f"sha256:{DIGEST}00", "sha256:" + "ａ" * 64),
            )
        ),
        _of(config={"digest": "sha256:.."}),
    ],
)
def test_a_bad_manifest_is_said_so(data: bytes) -> None:  # B-F3
    with pytest.raises(Unusable, match="manifest"):
        parse(data)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
        lambda value: json.dumps({"layers": value}).encode()
    )
)
def test_anything_is_a_manifest_or_not(data: bytes) -> None:
    with contextlib.suppress(Unusable):
        assert all(len(layer.digest) == 64 for layer in parse(data).layers)
