"""Ollama's store: a manifest for each name, and files that the manifests share.

A manifest is read again when it or one of its files has changed; Ollama writes it last, so a new pull is seen whole.
Called whenever the catalog is read. What makes a model unusable is its `problem`, and costs no other model anything.
Sources: server/images.go, manifest/ and types/model/config.go of Ollama.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router import files
from router.errors import CatalogError
from router.hub.change_times import ChangeTimes
from router.models.folder import FoundModel, FoundModels
from router.models.spec import Package
from router.models.stores import manifest as manifests
from router.models.stores import parameters
from router.models.stores.blobs import Blobs
from router.models.stores.manifest import Layer, Manifest, Unusable

log = logging.getLogger("router.catalog")

MAX_MANIFESTS = 4000
MAX_ENTRIES = 20_000  # of all folders of manifests together
MAX_MANIFEST_BYTES = 4 << 20
MAX_MESSAGES = 1000
MAX_LICENSES = 16
MAX_ADAPTERS = 16
MAX_DETAIL = 80  # characters of what a config says, such as the family
_DETAILS = {
    "model_format": "format",
    "model_family": "family",
    "model_type": "parameter_size",
    "file_type": "quantization_level",
}


@dataclass(frozen=True, slots=True)
class _Read:
    """What a manifest says, and the times of all files on which that depends."""

    found: FoundModel
    times: ChangeTimes


class OllamaStore:
    """The store in the folder `root`, which holds `manifests` and `blobs`. Threads may share it.

    ::

        store = OllamaStore(Path("~/.ollama/models").expanduser())
        store.read().models["llama3.2:latest"].path  # .../blobs/sha256-...
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = Blobs(root)
        self._lock = threading.Lock()
        self._read: dict[str, tuple[str, _Read]] = {}  # by path; with the name
        self._folders = ChangeTimes({})
        self._looked_at: float | None = None

    def __repr__(self) -> str:
        return f"<OllamaStore {self.root}: {len(self._read)} manifests>"

    def read(self) -> FoundModels:
        """The models by name, in the order of the names. Blocks. Raises CatalogError if the store has gone."""
        with self._lock:
            known, self._read = self._read, {}
            times: dict[str, int] = {}
            warnings: list[str] = []
            self._looked_at = time.monotonic()
            self._folders = ChangeTimes.of([str(self.root), str(self.root / "manifests")])
            self._check()
            for path, name in self._manifests(times, warnings):
                before = known.get(path)
                read = before[1] if before and before[1].times.are_current() else self._of_manifest(name, Path(path))
                self._read[path] = name, read
            self._folders = ChangeTimes({**self._folders.times, **times})
            models = dict(sorted((name, read.found) for name, read in self._read.values()))
            return FoundModels(models, warnings=[*warnings, *(m.problem for m in models.values() if m.problem)])

    def is_current(self, max_age: float = 1.0) -> bool:
        """Whether nothing has changed since `read`. The disk is not looked at if it was within the last `max_age`
        seconds. Blocks."""
        with self._lock:
            if self._looked_at is None:
                return False
            if time.monotonic() - self._looked_at < max_age:
                return True
            is_same = self._folders.are_current() and all(r.times.are_current() for _, r in self._read.values())
            self._looked_at = time.monotonic() if is_same else None
            return is_same

    def watch(self, unread: Iterable[Path]) -> None:
        """All files are watched already."""

    def _check(self) -> None:
        """Raises CatalogError if its disk is not mounted, say: that is no reason to drop its models. Ollama itself
        removes the folder of manifests with the last of them."""
        try:
            os.listdir(self.root / "manifests")
        except FileNotFoundError as error:
            if not self.root.is_dir():
                raise CatalogError(f"--ollama-models {self.root}: it has gone; {error.strerror}") from error
        except OSError as error:
            raise CatalogError(f"--ollama-models: {files.problem_of(self.root / 'manifests', error)}") from error

    def _manifests(self, times: dict[str, int], warnings: list[str]) -> Iterator[tuple[str, str]]:
        """The paths and names of all manifests. The times of the folders that were looked into are added to `times`."""
        places: list[tuple[str, tuple[str, ...]]] = [(str(self.root / "manifests"), ())]
        count = entries = 0
        while places:
            folder, above = places.pop(0)
            times |= ChangeTimes.of([folder]).times  # before it is listed, so that no change is missed
            try:
                names = sorted(os.listdir(folder))
            except OSError as error:
                if above:
                    warnings.append(f"{files.problem_of(folder, error)}: it is left out")
                continue
            entries += len(names)
            for each in names if entries <= MAX_ENTRIES else ():
                path, parts = os.path.join(folder, each), (*above, each)
                if len(parts) < 4:
                    if not each.startswith(".") and os.path.isdir(path):
                        places.append((path, parts))
                elif (name := manifests.name_of(*parts)) and not os.path.isdir(path):
                    count += 1
                    if count > MAX_MANIFESTS:
                        warnings.append(f"{self.root} has more than {MAX_MANIFESTS} models: the others are left out")
                        return
                    yield path, name

    def _of_manifest(self, name: str, path: Path) -> _Read:
        times = ChangeTimes.of([str(path)])  # before it is read, so that a change in between is seen the next time
        watched: list[str] = []
        try:
            data = files.read(path, MAX_MANIFEST_BYTES)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return _Read(_unusable(path, name, f"the manifest {path} cannot be read: {reason}"), times)
        digest, modified_at, size = "", _modified_at(path), 0  # what is no manifest may be somebody's secret
        details: Mapping[str, Any] = {}
        try:
            manifest = manifests.parse(data)
            digest = hashlib.sha256(data).hexdigest()
            size = manifest.size
            watched += (str(self._blobs.path(layer.digest)) for layer in manifest.files[:100])
            config = self._json(manifest.config) if manifest.config else {}
            details = _details(config)
            found = self._usable(name, path, manifest, config, digest, modified_at, details)
        except Unusable as error:
            package = Package("Ollama", digest, modified_at, size, details)
            found = _unusable(path, name, f"{name} of Ollama's store cannot be used: {error}", package)
        return _Read(found, ChangeTimes({**times.times, **ChangeTimes.of(watched).times}))

    def _usable(
        self,
        name: str,
        path: Path,
        manifest: Manifest,
        config: Mapping[str, Any],
        digest: str,
        modified_at: float,
        details: Mapping[str, Any],
    ) -> FoundModel:
        """Raises Unusable."""
        if host := config.get("remote_host"):
            raise Unusable(f"it runs on {str(host)[:200]!r} alone, and this router serves models of this machine")
        models = manifest.of_kind("model")
        model_format = config.get("model_format") or "gguf"
        if model_format == "safetensors" or (not models and manifest.of_kind("tensor")):
            raise Unusable("it is made of safetensors, for Ollama's MLX engine: pull a tag that is GGUF")
        if model_format != "gguf":
            raise Unusable(
                f"its format is {str(model_format)[:80]!r}, and llama-server reads GGUF alone: pull it again"
            )
        if not models:
            raise Unusable("its manifest names no model file: pull it again")
        if len(models) > 1:
            raise Unusable(
                f"it is split into {len(models)} files, whose names in the store are not those that llama.cpp looks "
                "for: join them with llama-gguf-split --merge, and name the result in a preset"
            )
        projectors, adapters = manifest.of_kind("projector")[:1], manifest.of_kind("adapter")[:MAX_ADAPTERS]
        given = parameters.translate(self._of_layers(manifest, "params"))
        notes = [f"its parameter {word} has no effect here" for word in given.ignored]
        if manifest.of_kind("draft"):
            notes.append("its draft model is not used: name it by spec-draft-model in a preset")
        if notes:
            log.info("%s of Ollama's store: %s", name, "; ".join(notes))
        package = Package(
            "Ollama",
            digest,
            modified_at,
            manifest.size,
            details,
            system=self._system(manifest),
            parameters=given.shown,
            defaults=tuple((field, json.dumps(value)) for field, value in given.defaults.items()),
            messages=self._messages(manifest),
            load=given.load,
            licenses=tuple(self._blobs.path(layer.digest) for layer in manifest.of_kind("license")[:MAX_LICENSES]),
            notes=tuple(notes),
        )
        return FoundModel(
            "ollama",
            self._blobs.weights(models[0]),
            self._blobs.weights(projectors[0]) if projectors else None,
            adapters=tuple(map(self._adapter, adapters)),
            package=package,
        )

    def _adapter(self, layer: Layer) -> Path:
        """Raises Unusable."""
        path = self._blobs.weights(layer)
        if "," in str(path):  # which the engine takes for the end of the path
            raise Unusable(f"llama-server reads no adapter with a comma in its path, as in {path}: rename the folder")
        return path

    def _of_layers(self, manifest: Manifest, kind: str) -> dict[str, Any]:
        """The fields of all layers of this kind; the last one wins. Raises Unusable."""
        fields: dict[str, Any] = {}
        for layer in manifest.of_kind(kind)[:16]:
            fields |= self._json(layer)
        return fields

    def _json(self, layer: Layer) -> dict[str, Any]:
        return manifests.json_object(self._blobs.text(layer), f"its {layer.kind}")

    def _system(self, manifest: Manifest) -> str:
        layers = manifest.of_kind("system")[-1:]
        return self._blobs.text(layers[0]).decode(errors="replace").strip() if layers else ""

    def _messages(self, manifest: Manifest) -> tuple[Mapping[str, Any], ...]:
        """The messages that come before those of each chat, in OpenAI's shape. Raises Unusable."""
        layers = manifest.of_kind("messages")[-1:]
        if not layers:
            return ()
        try:
            given = manifests.json_value(self._blobs.text(layers[0]))
        except (ValueError, RecursionError) as error:
            raise error if isinstance(error, Unusable) else Unusable("its messages are no JSON") from None
        if not isinstance(given, list) or len(given) > MAX_MESSAGES:
            raise Unusable(f"its messages are no list of at most {MAX_MESSAGES}")
        kept = [message for message in given if isinstance(message, dict) and _is_message(message)]
        return tuple({"role": message["role"], "content": message["content"]} for message in kept)


def _is_message(message: Mapping[str, Any]) -> bool:
    return message.get("role") in ("system", "user", "assistant") and isinstance(message.get("content"), str)


def _unusable(path: Path, name: str, problem: str, package: Package | None = None) -> FoundModel:
    return FoundModel("ollama", path, problem=problem, package=package or Package("Ollama", "", 0.0, 0))


def _details(config: Mapping[str, Any]) -> dict[str, Any]:
    """What Ollama shows of the model, in the fields of its API."""
    shown = {ours: value[:MAX_DETAIL] for name, ours in _DETAILS.items() if isinstance(value := config.get(name), str)}
    families = config.get("model_families")
    given = families[:16] if isinstance(families, list) else []
    listed = [each[:MAX_DETAIL] for each in given if isinstance(each, str)]
    return {**shown, **({"families": listed} if listed else {})}


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
