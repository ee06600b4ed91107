"""From the sources to the catalog: presets, a folder of models, the Hugging Face cache, and the command line.

The sources are those of llama.cpp's router (tools/server/server-models.cpp, common/preset.cpp). A preset's section adds
a model, or is merged over a found model of its name. Where several set one flag, the command line wins over the section
and the section over `[*]`.

Building reads folders, but no headers, and never the network. Called at the start and whenever a source has changed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from router import files, patience
from router.engine import engines
from router.engine.flags import Arg, FlagTable, merge, switch_of, value_of
from router.errors import CatalogError, EngineError
from router.hub import cache as hub
from router.hub.cache import CacheEntry
from router.hub.links import fault, file_name
from router.hub.names import canonical, without_host
from router.models import links
from router.models.catalog import LATEST_TAG, Catalog, quoted
from router.models.folder import FoundModel, FoundModels
from router.models.folders import ModelFolders, Places
from router.models.ini import DEFAULTS
from router.models.presets import Preset, PresetFile
from router.models.shards import shards, stem
from router.models.spec import (
    DOWNLOAD_FLAGS,
    FILE_FLAGS,
    MODEL_FLAGS,
    SINGLE_MODEL_FLAGS,
    ModelSpec,
    Source,
    comma_separated,
    draft_kind,
)
from router.models.stores import twins
from router.text import model_name, valid

logger = logging.getLogger("router.catalog")

# The operator's own models, which no file of others may change, by the flags that name where they are.
_PLACES = {"models_dir": "--models-dir", "ollama": "--ollama-models", "lmstudio": "--lmstudio-models"}


def build(
    file: PresetFile,
    cached: Sequence[CacheEntry],
    *,
    models_dir: Places = None,
    in_folders: FoundModels | None = None,
    cache_root: Path,
    global_args: Sequence[Arg],
    table: FlagTable,
    default_name: str | None,
    offline: bool,
    wanted: Sequence[str] = (),
    created: Mapping[str, FoundModel] | None = None,
    earlier: Mapping[str, ModelSpec] = MappingProxyType({}),
    stored: Mapping[str, FoundModel] | None = None,
) -> Catalog:
    """The catalog of all sources. Raises CatalogError.

    `global_args` are the command line's, for all children. A model that they name is the only one, unless `models_dir`
    or a preset file add more.
    `wanted` are names on the hub that are models even if the cache does not have them.
    `created` are models that clients have made of files.
    `earlier` are the models of the catalog before: what hangs now counts as unchanged.
    `stored` are models of other programs' stores.
    `models_dir` is read here, unless `in_folders` already has what the folders of models hold.
    """
    own_args = [arg for arg in global_args if arg.flag.name in SINGLE_MODEL_FLAGS]
    common_args = [arg for arg in global_args if arg.flag.name not in SINGLE_MODEL_FLAGS]
    defaults = Preset(DEFAULTS) if file.foreign else file.defaults
    single = _single_model(own_args, defaults)
    found: dict[str, FoundModel] = {}
    if models_dir or file.path or not single:
        found = {entry.name: FoundModel("cache", entry.files[0], entry.mmproj) for entry in cached}
    if in_folders is None:
        in_folders = ModelFolders(models_dir).read()
    found |= in_folders.models
    found = {**(created or {}), **(stored or {}), **found}
    _check_foreign_names(file, found)

    builder = _SpecBuilder(table, cache_root, offline, common_args)
    sections = _named_as_the_hub([_in_full(found, preset) for preset in file.presets], found)
    parts: list[_Part] = []
    if single:
        sections.pop(single.name, None)
        found.pop(single.name, None)
        parts.append(_Part(single, "command_line", own_args))
    folded = {name.casefold(): name for name in found}
    for name, preset in sections.items():
        parts.append(_Part(preset, "preset", (), found.pop(folded.get(name.casefold(), name), None)))
    hidden = {path for preset in file.presets if preset.dedup_cache_models for path in builder.cached_files(preset)}
    found = twins.folded(found, {alias for part in parts for alias in (part.preset.name, *part.preset.aliases)})
    for name, model in found.items():
        is_hidden = model.source == "cache" and model.path in hidden
        preset = replace(defaults, name=name, unlisted=defaults.unlisted or is_hidden)
        parts.append(_Part(preset, model.source, (), model))
    for choice in {part.preset.engine for part in parts if part.preset.engine}:
        with contextlib.suppress(EngineError):
            engines.table_of(choice)  # here it may take its time; `_for_engine` tells what is wrong
    # A model whose disk hangs costs itself alone.
    looked = patience.each(builder.spec_of, parts, key=lambda part: f"model {part.preset.name}")
    models = []
    for part, spec in zip(parts, looked, strict=True):
        if isinstance(spec, patience.Hung):
            spec = earlier.get(part.preset.name) or builder.spec_of(part, looks=False)
        models.append(spec)
    models = _with_aliases(models, {**(stored or {}), **found, **in_folders.models})
    known = {name for spec in models for name in (spec.name, *spec.aliases)}
    for name in wanted:
        entry = hub.find(cache_root, name)  # another client may have downloaded it, and the cache may call it otherwise
        if name not in known and (entry is None or entry.name not in known):
            part = _Part(replace(defaults, name=name), "cache", builder.args(name, "--hf-repo"))
            models.append(builder.spec_of(part))
    if not models:
        logger.warning("there are no models: give --models-dir, --models-preset, or a Hugging Face cache")
    return Catalog(models, default_name, in_folders.left_out)


def _with_aliases(models: list[ModelSpec], in_folders: Mapping[str, FoundModel]) -> list[ModelSpec]:
    """With the aliases of models in folders and stores, as far as they mean no other model."""
    taken = {name for spec in models for name in (spec.name, *spec.aliases)}
    result = []
    for spec in models:
        found = in_folders.get(spec.name)
        further = tuple(alias for alias in found.aliases if alias not in taken) if found else ()
        is_same = found is not None and spec.source in (found.source, "preset")
        taken.update(further)
        result.append(replace(spec, aliases=(*spec.aliases, *further)) if further and is_same else spec)
    return result


@dataclass(frozen=True, slots=True)
class _Part:
    """What one model is made of. `own` are the command line's arguments for this one model. `found` are its files, if
    it was found."""

    preset: Preset
    source: Source
    own: Sequence[Arg] = ()
    found: FoundModel | None = None


def _named_as_the_hub(presets: Sequence[Preset], found: Collection[str]) -> dict[str, Preset]:
    """The sections by name, each under the name that the cache would give its model, as in llama.cpp.

    Of two sections that differ in the prefix of their quants alone, the one without it has that name; and a section
    whose name, prefix and all, is one of `found` belongs to that model.
    """
    names = {preset.name for preset in presets}
    sections: dict[str, Preset] = {}
    for preset in presets:
        name = canonical(preset.name)
        if name != preset.name and (name in names or name in sections or preset.name in found):
            name = preset.name
        sections[name] = replace(preset, name=name)
    return sections


def _check_foreign_names(file: PresetFile, found: Mapping[str, FoundModel]) -> None:
    """A stranger's preset must not change a model of the operator's folder."""
    for preset in file.presets:
        name = _in_full(found, preset).name
        if file.foreign and name in found and found[name].source in _PLACES:
            raise CatalogError(
                f"[{preset.name}] of a preset file from the hub is a model of {_PLACES[found[name].source]}: rename "
                "that, or copy the file, and name the copy by --models-preset"
            )


def _in_full(found: Mapping[str, FoundModel], preset: Preset) -> Preset:
    """The section `[llama3.2]` means Ollama's `llama3.2:latest`, unless another model has its name."""
    full = preset.name + LATEST_TAG
    is_short = preset.name not in found and full in found and found[full].package is not None
    return replace(preset, name=full) if is_short and not _names_model(preset.args) else preset


def _names_model(args: Sequence[Arg]) -> bool:
    return any(arg.flag.name in MODEL_FLAGS for arg in args)


def _single_model(args: Sequence[Arg], defaults: Preset) -> Preset | None:
    """The model that the command line itself names; None if it names none."""
    sources = [arg for arg in args if arg.flag.name in MODEL_FLAGS]
    if not sources:
        return None
    path, repo = value_of(args, "--model"), value_of(args, "--hf-repo")
    other = " ".join(sources[0].values) or sources[0].flag.name.lstrip("-")
    if (url := value_of(args, "--model-url")) and not fault(url):
        other = stem(Path(file_name(url)))
    name = stem(Path(path)) if path else without_host(repo) if repo else other
    aliases, tags = (comma_separated(model_name(value_of(args, flag) or "")) for flag in ("--alias", "--tags"))
    return replace(defaults, name=model_name(name), aliases=aliases, tags=(*defaults.tags, *tags))


class _SpecBuilder:
    """Makes a ModelSpec of a preset and of what was found on disk. `common` are the arguments that win over all."""

    def __init__(self, table: FlagTable, cache_root: Path, offline: bool, common: Sequence[Arg]) -> None:
        self.table, self.cache_root, self.offline, self.common = table, cache_root, offline, common

    def __repr__(self) -> str:
        return f"<_SpecBuilder with cache {self.cache_root}{', offline' if self.offline else ''}>"

    def spec_of(self, part: _Part, *, looks: bool = True) -> ModelSpec:
        """The model. Unless it `looks`, the disk is not touched, and a problem says that it hangs."""
        preset, own, found = part.preset, part.own, part.found
        lowest = self.args(",".join(preset.device), "--device") if preset.device else []
        is_of_found = found is not None and not _names_model(preset.args)
        if found and is_of_found:
            lowest += self.file_args(found)
        package = found.package if found and is_of_found else None
        own = [arg for arg in own if arg.flag.name not in ("--alias", "--tags")]
        args = merge(lowest, preset.args, own, self.common)
        if looks and found and found.source == "cache" and (kind := draft_kind(args)):
            entry = hub.find(self.cache_root, preset.name, drafting=kind)
            args = merge(self.file_args(replace(found, draft=entry.draft if entry else None)), args)
        # What was found out about the file counts as long as the model is still that file.
        problem = found.problem if found and value_of(args, "--model") == str(found.path) else None
        is_named = any(arg.flag.name in ("--mmproj", "--mmproj-url") for arg in (*preset.args, *own, *self.common))
        looks = looks and problem is None
        if looks:
            args, problem = self.with_files(args, finds_mmproj=not is_named)
        elif problem is None and (place := value_of(args, "--model") or value_of(args, "--hf-repo")):
            problem = files.hung(place)
        if preset.engine:
            args, wrong = _for_engine(args, preset)
            problem = wrong or problem
        problem = valid(problem) if problem else None
        path, mmproj = value_of(args, "--model"), value_of(args, "--mmproj")
        is_missing = any(value_of(args, flag) for flag in DOWNLOAD_FLAGS)
        model_path = Path(path) if path and not problem and not is_missing else None
        return ModelSpec(
            name=preset.name,
            source=part.source,
            args=args,
            model_path=model_path,
            mmproj_path=Path(mmproj) if mmproj and not problem else None,
            found_mmproj=bool(mmproj) and not is_named,
            size_bytes=_total_bytes(shards(model_path)) if model_path and looks else 0,
            problem=problem,
            aliases=tuple(alias for alias in dict.fromkeys(preset.aliases) if alias != preset.name),
            tags=preset.tags,
            stop_timeout=preset.stop_timeout,
            load_on_startup=preset.load_on_startup,
            pin=preset.pin,
            ttl=preset.ttl,
            min_loaded=preset.min_loaded,
            priority=preset.priority,
            devices=comma_separated(value_of(args, "--device") or ""),
            engine=preset.engine,
            unlisted=preset.unlisted,
            description=preset.description,
            env=preset.env,
            filters=package.with_filters(preset.filters) if package else preset.filters,
            package=replace(package, operator_filters=preset.filters) if package else None,
            params_by_name=preset.set_params_by_name,
        )

    def with_files(self, args: tuple[Arg, ...], *, finds_mmproj: bool) -> tuple[tuple[Arg, ...], str | None]:
        """The arguments, in which what was downloaded is replaced by its files; and the first problem with them, None
        if there is none. With `finds_mmproj` nobody named the projector: if it has gone since it was found, the model
        is served without it."""
        args = tuple(_without_host(arg) for arg in args)
        repo, docker = value_of(args, "--hf-repo"), value_of(args, "--docker-repo")
        if docker:
            args, problem = links.with_model_of_docker(
                args, docker, self.cache_root, self.file_args, offline=self.offline
            )
            if problem or value_of(args, "--docker-repo"):
                return args, problem
        elif repo:
            entry = hub.find(self.cache_root, repo, value_of(args, "--hf-file"), drafting=draft_kind(args))
            if entry is None:
                return args, self.download_problem(repo)
            kept = [arg for arg in args if arg.flag.name not in (MODEL_FLAGS | {"--hf-token"})]
            # What is kept wins: a projector that the user has named is better than the one beside the model.
            args = merge(self.file_args(FoundModel("cache", entry.files[0], entry.mmproj, entry.draft)), kept)
        if switch_of(args, "--mmproj-auto") is False:
            args = tuple(arg for arg in args if arg.flag.name not in ("--mmproj", "--mmproj-url"))
        args, problem = links.with_files(args, self.cache_root, self.args, offline=self.offline)
        needed = [arg for arg in args if not (finds_mmproj and arg.flag.name == "--mmproj")]
        return args, problem or file_problem(needed) or self.draft_problem(args)

    def download_problem(self, repo: str) -> str | None:
        """Why a repository that is not in the cache cannot be downloaded."""
        if hub.repo_and_quant(repo) is None:
            return f"hf-repo = {quoted(repo)} is no name of the form user/repo or user/repo:quant"
        if self.offline:
            return f"{repo} is not in the cache {self.cache_root}, and --offline forbids to download it"
        return None

    def draft_problem(self, args: Sequence[Arg]) -> str | None:
        """Why a draft model that the child would download cannot be had."""
        draft = value_of(args, "--spec-draft-hf")
        if not draft or not self.offline or hub.find(self.cache_root, draft):
            return None
        return f"the draft model {draft} is not in the cache {self.cache_root}, and --offline forbids to download it"

    def file_args(self, found: FoundModel) -> list[Arg]:
        """The arguments that name the files of a found model."""
        args = self.args(str(found.path), "--model")
        if found.mmproj:
            args += self.args(str(found.mmproj), "--mmproj")
        if found.draft:
            args += self.args(str(found.draft), "--spec-draft-model", "--model-draft")
        for adapter in found.adapters:
            args += self.args(str(adapter), "--lora")
        for flag, value in found.package.load if found.package else ():
            args += self.args(value, flag)
        return args

    def args(self, value: str, *spellings: str) -> list[Arg]:
        """One argument, by the first of these spellings that the engine knows; none if it knows none of them."""
        flags = [flag for spelling in spellings if (flag := self.table.find(spelling))]
        return [Arg(flag, (value,)) for flag in flags[:1]]

    def cached_files(self, preset: Preset) -> list[Path]:
        """The first file in the cache of each repository that the preset names."""
        args = merge(preset.args, self.common)
        repos = [(value_of(args, "--hf-repo"), value_of(args, "--hf-file")), (value_of(args, "--spec-draft-hf"), None)]
        entries = [hub.find(self.cache_root, repo, file) for repo, file in repos if repo]
        return [entry.files[0] for entry in entries if entry]


def _without_host(arg: Arg) -> Arg:
    if arg.flag.name in ("--hf-repo", "--spec-draft-hf") and arg.values:
        return replace(arg, values=(without_host(arg.values[0]),))
    return arg


def _for_engine(args: tuple[Arg, ...], preset: Preset) -> tuple[tuple[Arg, ...], str | None]:
    """The arguments as the model's own engine spells them, and why it cannot run the model; None if it can."""
    if preset.engine_problem:
        return args, preset.engine_problem
    try:
        bound, unknown = engines.bound_to(args, engines.table_of(preset.engine))
    except EngineError as error:
        return args, error.message
    if unknown:
        return (
            args,
            f"its engine {preset.engine} does not know {', '.join(unknown)}: leave that out, or name another",
        )
    return bound, None


def file_problem(args: Sequence[Arg]) -> str | None:
    """The first file of the model that is missing, as a sentence; None if all are there."""
    if not any(arg.flag.name in MODEL_FLAGS for arg in args):
        return "no model is named: add model = FILE or hf-repo = user/repo to its section"
    return next((sentence for _, sentence in missing_files(args)), None)


def missing_files(args: Sequence[Arg]) -> Iterator[tuple[str, str]]:
    """Each flag that names a missing file of the model, with a sentence about it."""
    # If another flag says where to download the model, --model says only where the download goes.
    is_downloaded = any(arg.flag.name in MODEL_FLAGS - {"--model"} for arg in args)
    for arg in args:
        if arg.flag.name in FILE_FLAGS and not (is_downloaded and arg.flag.name == "--model"):
            parts = shards(Path(arg.values[0]))
            if part := next((part for part in parts if not os.path.isfile(part)), None):
                yield arg.flag.name, _why_missing(part, len(parts))


def _why_missing(path: Path, count: int) -> str:
    try:
        kind = files.kind_of(os.stat(path))
    except FileNotFoundError as error:
        if os.path.islink(path):
            return files.problem_of(path, error)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) not in (errno.ENAMETOOLONG, errno.ENOTDIR):
            return files.problem_of(path, error)
    else:
        return f"{path} is {kind or 'a folder'}, not a file: name a .gguf file"
    which = f"the shard {path.name} of {count}" if count > 1 else f"the file {path}"
    return f"{which} is missing (in {os.path.abspath(path.parent)}): put it there or change the path"


def _total_bytes(paths: Iterable[Path]) -> int:
    try:
        return sum(map(os.path.getsize, paths))
    except OSError:  # a file has gone since it was found: loading the model will report that
        return 0
