"""PURE: a manifest of Ollama's store: the name that its path means, and its layers.

A manifest lies at `manifests/HOST/NAMESPACE/NAME/TAG`, and lists digests of files, each with a media type. Sources:
manifest/manifest.go, types/model/name.go and server/images.go of Ollama.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

REGISTRY, LIBRARY, LATEST = "registry.ollama.ai", "library", "latest"
MAX_LAYERS = 20_000  # a model of safetensors has one for each tensor
_KIND = "application/vnd.ollama.image."
_OF_HOST = re.compile(r"[A-Za-z0-9_][\w.:-]{0,349}", re.ASCII)
_OF_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,79}", re.ASCII)
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


class Unusable(ValueError):
    """Its text is the sentence that says why a model cannot be used."""


@dataclass(frozen=True, slots=True)
class Layer:
    """`kind` is the last word of the media type: `model`, `projector`, `params` and so on. `digest` is a SHA-256 in
    lower case, and `size` is in bytes, 0 if the manifest does not say."""

    kind: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """`config` is the layer that says what kind of model it is; None in very old stores."""

    config: Layer | None
    layers: Sequence[Layer]

    @property
    def files(self) -> Sequence[Layer]:
        """All layers, and the config."""
        return (*self.layers, self.config) if self.config else self.layers

    @property
    def size(self) -> int:
        """The bytes of all files together, as Ollama tells them."""
        return sum(layer.size for layer in self.files)

    def of_kind(self, *kinds: str) -> list[Layer]:
        return [layer for layer in self.layers if layer.kind in kinds]


def name_of(host: str, namespace: str, name: str, tag: str) -> str | None:
    """The name by which Ollama lists the model: without the parts that are understood. None for no name of a model."""
    if not _OF_HOST.fullmatch(host) or not all(map(_OF_NAME.fullmatch, (namespace, name, tag))):
        return None
    parts = (host, namespace, name) if host != REGISTRY else (namespace, name) if namespace != LIBRARY else (name,)
    return f"{'/'.join(parts)}:{tag}"


def parse(data: bytes) -> Manifest:
    """Raises Unusable."""
    fields = json_object(data, "its manifest")
    layers = [] if fields.get("layers") is None else fields["layers"]
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise Unusable("its manifest has no list of layers")
    config = fields.get("config")
    has_config = isinstance(config, dict) and config.get("digest")
    return Manifest(replace(_layer(config), kind="config") if has_config else None, tuple(map(_layer, layers)))


def json_value(data: bytes) -> Any:
    """What a file of JSON says. Half a character, such as `"\\ud800"`, becomes a question mark: no strict reader takes
    it, neither the engine nor a client, and one in a list would cost the whole list.

    Raises ValueError, RecursionError."""
    value = json.loads(data)
    if b"\\" in data or not data.isascii():
        value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return value


def json_object(data: bytes, what: str) -> dict[str, Any]:
    """Raises Unusable."""
    try:
        fields = json_value(data)
    except (ValueError, RecursionError):
        raise Unusable(f"{what} is no JSON") from None
    if not isinstance(fields, dict):
        raise Unusable(f"{what} is no JSON object")
    return fields


def _layer(fields: Any) -> Layer:
    digest = fields.get("digest") if isinstance(fields, dict) else None
    found = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if not found:
        raise Unusable("its manifest names a layer by something that is no SHA-256")
    kind, size = fields.get("mediaType"), fields.get("size")
    kind = kind.partition(";")[0].removeprefix(_KIND) if isinstance(kind, str) else ""
    is_count = isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 60
    return Layer(kind, found[1].lower(), size if is_count else 0)
