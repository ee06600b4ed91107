"""A store as Ollama lays it: manifests that name files by their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KIND = "application/vnd.ollama.image."
GGUF_CONFIG = {
    "model_format": "gguf",
    "model_family": "llama",
    "model_families": ["llama"],
    "model_type": "3.2B",
    "file_type": "Q4_K_M",
    "architecture": "amd64",
    "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": []},
}

Layer = Mapping[str, Any]


class Laid:
    """The store in `root`.

    ::

        laid = Laid(tmp_path / "store")
        laid.model("llama3.2:latest", [laid.layer("model", gguf), laid.layer("params", {"top_k": 5})])
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)
        (root / "manifests").mkdir()

    def blob(self, content: bytes | str | Path) -> Path:
        data = content.read_bytes() if isinstance(content, Path) else content
        data = data.encode() if isinstance(data, str) else data
        path = self.root / "blobs" / f"sha256-{hashlib.sha256(data).hexdigest()}"
        path.write_bytes(data)
        return path

    def layer(self, kind: str, content: bytes | str | Path | Mapping[str, Any] | Sequence[Any]) -> Layer:
        """`kind` is the last word of the media type. What is no text and no file is written as JSON."""
        data = content if isinstance(content, bytes | str | Path) else json.dumps(content)
        path = self.blob(data)
        media_type = kind if "/" in kind else KIND + kind
        return {"mediaType": media_type, "digest": path.name.replace("-", ":"), "size": path.stat().st_size}

    def manifest(self, name: str) -> Path:
        """Where the manifest of a name lies."""
        path, _, tag = name.partition(":")
        parts = path.split("/")
        parts = [*("registry.ollama.ai", "library")[: 3 - len(parts)], *parts]
        return self.root.joinpath("manifests", *parts, tag or "latest")

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.manifest(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def model(self, name: str, layers: Sequence[Layer], config: Mapping[str, Any] = GGUF_CONFIG) -> Path:
        """A manifest with these layers. Returns its path."""
        return self.write(
            name,
            json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                    "config": self.layer("application/vnd.docker.container.image.v1+json", config),
                    "layers": list(layers),
                }
            ),
        )
