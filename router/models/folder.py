"""The models in folders (`--models-dir`): which files are models, what they are called, and their companions.

- `x.gguf` is the model x. The folder `x/` with a model in it is x too, and may hold its projector and its draft model.
- `publisher/x/` is publisher/x, as LM Studio lays it.
- A folder with several models: it stands for its Q4_K_M, its Q8_0, or its first. Quantizations of one model have the
  folder's name and their own: `x:Q8_0`. Other models have the folder's name and the file's: `x/other`.
- `x/Q8_0/` with the shards of a quantization belongs to `x`.
- If two models would have one name, the first has it. The other has a longer one, and a warning says which.

`x.gguf` and `x/` are the rules of llama.cpp's router (tools/server/server-models.cpp). `tree` finds the files, and
what cannot be read. Called when the catalog is built.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from router.models import kinds
from router.models.shards import SHARD, shards, stem_of
from router.models.spec import Package, Source
from router.models.tree import FoundFile, is_companion, is_draft, is_projector
from router.text import model_name, valid

DEFAULT_QUANTS = ("Q4_K_M", "Q8_0")  # that a folder's own name means, as a repository's on the hub does
_QUANT = r"(?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|B?F16|F32|FP16|FP32)"
_LAST_WORD = re.compile(rf"(?:^|[-._])({_QUANT})$", re.IGNORECASE)
_WHOLE = re.compile(_QUANT, re.IGNORECASE)
_F16 = re.compile(r"(?<![A-Za-z])f16\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model that was found on disk, with the companions beside it.

    `path` is its first shard, or the folder that cannot be read.
    `problem` is why it cannot run, as a sentence; None if nothing is known to be wrong.
    `adapters` and `package` come from the stores of other programs.
    """

    source: Source
    path: Path
    mmproj: Path | None = None
    draft: Path | None = None
    problem: str | None = None
    aliases: tuple[str, ...] = ()
    adapters: tuple[Path, ...] = ()
    package: Package | None = None


@dataclass(slots=True)
class FoundModels:
    """What folders hold: models by name, files that are no models by the name that they would have had, with what they
    are, and warnings."""

    models: dict[str, FoundModel] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def add_models(found: FoundModels, root: Path, files: Iterable[FoundFile], *, is_first: bool) -> None:
    """Add the models of one folder of models to those of the folders before it."""
    known = {model.path for model in found.models.values()}
    groups: dict[tuple[str, ...], list[FoundFile]] = {}
    for file in files:
        if file.path not in known:  # else one folder lies in the other
            groups.setdefault(_home(file), []).append(file)
    for home in sorted(groups):
        for model in _Group(home, groups[home]).models():
            _add(found, model, root, is_first)


def step_aside(found: FoundModels, aliases: Collection[str]) -> None:
    """Give other names to the models whose names the operator has given to other models."""
    for name in [name for name in found.models if name in aliases]:
        model = found.models.pop(name)
        other = _numbered(name, found)
        found.models[other] = model
        found.warnings.append(f"{name!r} is an alias of another model, so {model.path} is the model {other!r}")


@dataclass(frozen=True, slots=True)
class _Named:
    """A model with the names that it may have, the best one first."""

    names: tuple[str, ...]
    model: FoundModel
    kind: str | None = None


def _add(found: FoundModels, named: _Named, root: Path, is_first: bool) -> None:
    names = [model_name(name) for name in named.names]
    if named.kind:
        free = (name for name in (*names, f"{root.name}/{names[0]}") if name not in found.left_out)
        found.left_out[model_name(next(free, str(named.model.path)))] = valid(f"{named.model.path} is {named.kind}")
        return
    folder = model_name(root.name) or "models"
    longer = [f"{folder}/{name}" for name in names]
    candidates = [*names[:1], *(longer if not is_first else [*names[1:], *longer])]
    name = next((name for name in candidates if name not in found.models), None)
    if name is None:
        name = _numbered(names[0], found)
    if name != names[0]:
        first = found.models[names[0]].path
        found.warnings.append(f"{first} is the model {names[0]!r}, so {named.model.path} is the model {name!r}")
    found.models[name] = replace(named.model, aliases=tuple(map(model_name, named.model.aliases)))


def _numbered(name: str, found: FoundModels) -> str:
    """The name with the first number that makes it another one than all names so far."""
    return next(other for n in itertools.count(2) if (other := f"{name}~{n}") not in found.models)


def _home(file: FoundFile) -> tuple[str, ...]:
    """The folders whose names the file's model has. A folder for one quantization belongs to the folder around it."""
    if len(file.parts) > 1 and not file.is_folder and _WHOLE.fullmatch(file.parts[-1]):
        return file.parts[:-1]
    return file.parts


class _Group:
    """The files that share one name: those of a folder, or of the models folder itself, which has no name."""

    def __init__(self, home: tuple[str, ...], files: Sequence[FoundFile]) -> None:
        self._home = home
        self._folder = "/".join(home)
        self._files = files
        self._firsts = self._first_files()

    def __repr__(self) -> str:
        return f"<_Group {self._folder or 'without a folder'}: {len(self._files)} files>"

    def models(self) -> Iterator[_Named]:
        for file in self._files:
            if file.is_folder:
                yield _Named((self._folder,), FoundModel("models_dir", file.path, problem=file.problem))
        for file in self._files:
            kind = file.kind or _kind_by_name(file)
            if kind and not self._is_beside_a_model(kind):
                name = "/".join((*file.parts, stem_of(file.path.name)))
                yield _Named((name,), FoundModel("models_dir", file.path), kind)
        found = self._firsts
        if not self._home:
            for file in found:
                yield _Named((stem_of(file.path.name), file.path.name), self._model(file))
        elif found:
            yield from self._named_by_folder(found)

    def _is_beside_a_model(self, kind: str) -> bool:
        """Whether a file of this kind is the companion of a model: nothing has to be told about it."""
        return bool(self._home) and kind in (kinds.PROJECTOR, kinds.DRAFT) and bool(self._firsts)

    def _first_files(self) -> list[FoundFile]:
        """The models: for each its one file, or its first shard, whether that is there or not. Split models, which
        cannot be something else, come first in a folder; a whole file comes before the shards that it was made of."""
        by_path: dict[Path, FoundFile] = {}
        for file in self._files:
            if file.is_folder or file.kind or is_companion(file.path.name):
                continue
            first = shards(file.path)[0]
            is_itself = first == file.path
            if is_itself or first not in by_path:
                by_path[first] = file if is_itself else FoundFile(first, file.parts)
        is_split = {file.path: SHARD.fullmatch(file.path.name) is not None for file in by_path.values()}
        return sorted(by_path.values(), key=lambda file: (is_split[file.path] is not bool(self._home), file.path))

    def _named_by_folder(self, found: Sequence[FoundFile]) -> Iterator[_Named]:
        quants = [_quant_of(file) for file in found]
        are_clear = len(found) > 1 and all(quants) and len({quant.upper() for quant in quants if quant}) == len(found)
        are_one_family = len({_family(file) for file in found}) == 1
        are_clear = are_clear and are_one_family
        default = found[0]
        if are_one_family:  # even if two files are of one quantization
            by_quant: dict[str, FoundFile] = {}
            for file, quant in zip(found, quants, strict=True):
                by_quant.setdefault((quant or "").upper(), file)
            default = next((by_quant[quant] for quant in DEFAULT_QUANTS if quant in by_quant), default)
        for file, quant in sorted(zip(found, quants, strict=True), key=lambda pair: pair[0] is not default):
            by_stem = f"{self._folder}/{stem_of(file.path.name)}"
            by_file = f"{self._folder}/{file.path.name}"
            clear = f"{self._folder}:{quant}" if are_clear else by_stem
            if file is not default:
                yield _Named((clear, by_stem, by_file), self._model(file))
            elif len(found) > 1:
                yield _Named((self._folder, clear, by_stem, by_file), replace(self._model(file), aliases=(clear,)))
            else:
                yield _Named((self._folder, by_stem, by_file), self._model(file))

    def _model(self, file: FoundFile) -> FoundModel:
        problem = file.problem
        if not problem and (shard := SHARD.fullmatch(file.path.name)) and shard[4] != ".gguf":
            problem = (
                f"{file.path} is split, and llama-server finds the other parts only if all end in .gguf: rename them"
            )
        if not self._home:
            return FoundModel("models_dir", file.path, problem=problem)
        return FoundModel("models_dir", file.path, self._projector(file), self._draft(file), problem)

    def _projector(self, model: FoundFile) -> Path | None:
        return self._companion(model, is_projector, kinds.PROJECTOR)

    def _draft(self, model: FoundFile) -> Path | None:
        return self._companion(model, is_draft, kinds.DRAFT)

    def _companion(self, model: FoundFile, is_named_so: Callable[[str], bool], kind: str) -> Path | None:
        """The nearest one: in the model's own folder before the one around it; of several models in a folder, one
        whose name has more words of the model's; then F16 before others."""
        found = [
            file
            for file in self._files
            if not file.is_folder
            and not file.problem
            and (file.kind == kind or (file.kind is None and is_named_so(file.path.name)))
            and file.parts == model.parts[: len(file.parts)]
        ]
        words = set(_words(model.path.name)) if len({_family(file) for file in self._firsts}) > 1 else set()
        return min(
            (file.path for file in found),
            key=lambda path: (
                -len(path.parts),
                -len(words & set(_words(path.name))),
                _F16.search(path.name) is None,
                path.name,
            ),
            default=None,
        )


def _kind_by_name(file: FoundFile) -> str | None:
    if file.is_folder or file.problem:
        return None
    return kinds.PROJECTOR if is_projector(file.path.name) else kinds.DRAFT if is_draft(file.path.name) else None


def _quant_of(file: FoundFile) -> str | None:
    match = _LAST_WORD.search(stem_of(file.path.name))
    if match:
        return match[1]
    return file.parts[-1] if len(file.parts) > 1 and _WHOLE.fullmatch(file.parts[-1]) else None


def _family(file: FoundFile) -> str:
    """The name of the model without its quantization."""
    return _LAST_WORD.sub("", stem_of(file.path.name)).casefold()


def _words(name: str) -> list[str]:
    return re.split(r"[-._\s]+", stem_of(name).lower())
