"""Names that clients have made, and models of files that they have sent: kept in a file over restarts.

Most names stand for a model of the catalog, with a system prompt and parameters that are added to each request; they
share its process. A name with files or a chat template of its own is a model of its own: it becomes a part of the
catalog (`add_models`), and has its own process.

`api.ollama` makes and removes them, `sources` adds the models to the catalog, and `proxy.gateway` resolves the names
for every API. The file is private, and replaced as a whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from router import files
from router.engine.flags import Arg, FlagTable, merge
from router.errors import InvalidRequest
from router.models.catalog import LATEST_TAG, Catalog
from router.models.folder import FoundModel
from router.models.spec import Filters, ModelSpec

log = logging.getLogger("router.created")

MAX_NAMES = 1000
MAX_FILE_BYTES = 32 << 20
MAX_CONTEXT_TOKENS = 1 << 24  # of `num_ctx`


@dataclass(frozen=True, slots=True)
class Created:
    """A name that a client has made.

    - `model` is the catalog's name of the model that it stands for; empty if it has files of its own.
    - `created_at` is in seconds since 1970.
    - `parameters` are as the client wrote them; `defaults` are the same as fields of a request to the engine.
    - `messages` come before those of each chat, in OpenAI's shape.
    - `template` is a chat template (Jinja); None for the model's own.
    - `digests` are the SHA-256 of its files, in hexadecimal: the model, and its projector if it has one.
    """

    name: str
    model: str
    created_at: float
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Mapping[str, Any]] = ()
    license: Sequence[str] = ()
    template: str | None = None
    digests: Sequence[str] = ()

    def __repr__(self) -> str:  # prompts are not shown
        return f"<Created {self.name!r} of {self.model or 'its own files'!r}>"

    @property
    def context(self) -> int | None:
        """The context that its process is to have, in tokens (`num_ctx`); None for its model's own."""
        context = self.parameters.get("num_ctx")
        return context if isinstance(context, int) and 0 < context <= MAX_CONTEXT_TOKENS else None

    @property
    def is_own_model(self) -> bool:
        """It has a process of its own, and is in the catalog under its own name."""
        return bool(self.digests) or self.template is not None or self.context is not None


class CreatedStore:
    """All of them. Without a `path` they live as long as this object.

    `in_catalog` are the names of those that the last `add_models` added.

    Used in the event loop, except for `save` and `add_models`, which may run in threads::

        store = CreatedStore(path)
        store.put(Created("mine", "qwen3", time.time(), "Be brief."))
        store.save()
        store.get("Mine:latest").system  # "Be brief."
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()  # between two threads that write
        self._rows: dict[str, Created] = self._read() if path else {}
        self._derived: dict[str, tuple[ModelSpec, Created, ModelSpec]] = {}
        self._names_of: dict[str, list[str]] | None = None  # by model; None when it has to be made again
        self.in_catalog: frozenset[str] = frozenset()
        self._changes: dict[str, Created | None] = {}  # since the start; None for what was removed

    def __repr__(self) -> str:
        return f"<CreatedStore {len(self._rows)} names in {self._path or 'memory'}>"

    def __bool__(self) -> bool:
        return bool(self._rows)

    def __iter__(self) -> Iterator[Created]:
        return iter(tuple(self._rows.values()))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def folder(self) -> Path | None:
        """The folder of the files that clients send; None if there is none."""
        return self._path.parent / "blobs" if self._path else None

    def get(self, name: str) -> Created | None:
        return self._rows.get(_key(name))

    def put(self, created: Created) -> None:
        """Raises InvalidRequest if there are too many."""
        if _key(created.name) not in self._rows and len(self._rows) >= MAX_NAMES:
            raise InvalidRequest(f"There are {MAX_NAMES} names already; delete one first.")
        self._rows[_key(created.name)] = self._changes[_key(created.name)] = created
        self._names_of = None

    def remove(self, name: str) -> None:
        self._rows.pop(_key(name), None)
        self._changes[_key(name)] = None
        self._derived.pop(_key(name), None)
        self._names_of = None

    def used_digests(self) -> set[str]:
        """The files of all models, also of those that another router has made since. Blocks."""
        others = self._read() if self._path else {}
        return {digest for created in (*self, *others.values()) for digest in created.digests}

    def names_of(self, model: str) -> Sequence[str]:
        """The names that stand for this model of the catalog and share its process."""
        if self._names_of is None:
            self._names_of = {}
            for created in self:
                if not created.is_own_model:
                    self._names_of.setdefault(created.model, []).append(created.name)
        return self._names_of.get(model, ())

    # For requests

    def resolve(self, catalog: Catalog, name: str) -> ModelSpec | None:
        """The model of the catalog that a created name stands for, as `of_request`; None if it stands for none."""
        created = self.get(name)
        if created is None or created.is_own_model or created.model not in catalog:
            return None
        return self.of_request(catalog.resolve(created.model), created)

    def made(self, spec: ModelSpec) -> Created | None:
        """What a client made this model of the catalog of; None if it is of the catalog's other sources."""
        return self.get(spec.name) if spec.name in self.in_catalog else None

    def of_request(self, spec: ModelSpec, created: Created | None = None) -> ModelSpec:
        """The model with filters that add what its name stands for; as it is if no client made the name."""
        created = created or self.made(spec)
        if created is None:
            return spec
        known = self._derived.get(_key(created.name))
        if known is None or known[0] is not spec or known[1] is not created:
            known = self._derived[_key(created.name)] = spec, created, replace(spec, filters=_filters(spec, created))
        return known[2]

    # For the catalog

    def found_models(self) -> dict[str, FoundModel]:
        """The models with files of their own, as if they had been found in a folder."""
        folder, found = self.folder, {}
        for created in self:
            if created.digests and folder:
                model, *projector = [folder / file_name(digest) for digest in created.digests]
                found[created.name] = FoundModel("models_dir", model, projector[0] if projector else None)
        return found

    def add_models(self, catalog: Catalog, table: FlagTable) -> Catalog:
        """The catalog with the models that clients made. `catalog` has those of `found_models` already. A name of the
        catalog's own sources wins."""
        own = {created.name: created for created in self if created.is_own_model}
        if not own:
            self.in_catalog = frozenset()
            return catalog
        models, added = list(catalog.models), set()
        for index, spec in enumerate(models):
            created = own.get(spec.name)
            if created and created.digests and spec.model_path and spec.model_path.parent == self.folder:
                models[index] = _with_settings(spec, created, table)
                added.add(spec.name)
        taken = {name for spec in models for name in (spec.name, *spec.aliases)}
        for created in own.values():
            if created.name not in taken and created.model in catalog:
                origin = catalog.resolve(created.model)
                copy = replace(origin, name=created.name, aliases=(), source="models_dir", load_on_startup=False)
                models.append(_with_settings(replace(copy, pin=False), created, table))
                added.add(created.name)
        self.in_catalog = frozenset(added)
        others = [spec for spec in models if spec.name not in added]
        default = catalog.default_name or (others[0].name if len(others) == 1 else None)
        return Catalog(models, default, catalog.left_out)

    # The file

    def save(self) -> None:
        """Write the file. Blocks. Another router may use it too: what that one has written since stays. If writing
        fails, a warning is logged and the names live on in memory."""
        if self._path is None:
            return
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with self._lock:
                changes = dict(self._changes)
                rows = {**self._read(), **{key: created for key, created in changes.items() if created}}
                kept = [created for key, created in rows.items() if key not in changes or changes[key]][-MAX_NAMES:]
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                    json.dump({"names": [asdict(created) for created in kept]}, file)
                fresh.replace(self._path)  # another program reads the old file or the new one, never half of one
        except OSError as exc:
            with contextlib.suppress(OSError):
                fresh.unlink()
            log.warning("names that clients made are not kept: %s cannot be written (%s)", self._path, exc)

    def _read(self) -> dict[str, Created]:
        """What the file holds. A file that cannot be read is put aside, with a warning."""
        assert self._path is not None
        try:
            content = json.loads(files.read(self._path, MAX_FILE_BYTES))
            rows = [_row(row) for row in content["names"][:MAX_NAMES]]
            return {_key(row.name): row for row in rows}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as exc:
            log.warning(
                "names that clients made are lost: %s cannot be read (%s); the file is %s",
                self._path,
                exc,
                files.put_aside(self._path),
            )
            return {}


def default_path(environ: Mapping[str, str]) -> Path:
    """The file in the user's folder for data (XDG_DATA_HOME)."""
    data = environ.get("XDG_DATA_HOME")
    return (Path(data) if data else files.home() / ".local" / "share") / "llama-router" / "created.json"


def file_name(digest: str) -> str:
    """The name of a file that a client sent."""
    return f"sha256-{digest}"


def _key(name: str) -> str:
    folded = name.casefold()
    return folded.removesuffix(LATEST_TAG) or folded


def _row(row: Any) -> Created:
    """Raises ValueError, TypeError for a row of another shape."""
    kinds: dict[str, type | tuple[type, ...]] = {
        **dict.fromkeys(("name", "model", "system"), str),
        **dict.fromkeys(("parameters", "defaults"), dict),
        **dict.fromkeys(("messages", "license", "digests"), list),
        "created_at": (int, float),
        "template": (str, type(None)),
    }
    known = {each.name: row[each.name] for each in fields(Created)}
    if wrong := [name for name, value in known.items() if not isinstance(value, kinds[name])]:
        raise ValueError(f"{wrong[0]} is of a wrong kind")
    is_hexadecimal = all(isinstance(digest, str) and is_digest(digest) for digest in known["digests"])
    if not is_hexadecimal or not known["name"].isprintable() or not known["name"]:
        raise ValueError(f"{known['name'][:80]!r} is no name")
    if not all(isinstance(message, dict) for message in known["messages"]):
        raise ValueError("a message is no object")
    return Created(**known)


def is_digest(text: str) -> bool:
    """Whether this is a SHA-256 in hexadecimal, so that no name of a file leads out of the folder."""
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def _filters(spec: ModelSpec, created: Created) -> Filters:
    before = spec.filters or Filters()
    defaults = {**dict(before.defaults), **{name: json.dumps(value) for name, value in created.defaults.items()}}
    return replace(
        before,
        defaults=tuple(defaults.items()),
        default_system=created.system or before.default_system,
        messages=json.dumps(list(created.messages)) if created.messages else before.messages,
    )


def _with_settings(spec: ModelSpec, created: Created, table: FlagTable) -> ModelSpec:
    """The model with the template and the context of its name."""
    args, flag = spec.args, table.find("--ctx-size")
    if flag and created.context:
        args = merge(args, [Arg(flag, (str(created.context),))])
    return spec.with_args(args, created.template if created.template is not None else spec.template)
