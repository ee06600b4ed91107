"""From the sources to the catalog: presets, a folder of models, the Hugging Face cache, and the command line.

The sources are those of llama.cpp's router (tools/server/server-models.cpp, common/preset.cpp). A preset's section adds
a model, or is merged over a found model of its name. Where several set one flag, the command line wins over the section
and the section over `[*]`.

Building reads folders, but no headers, and never the network. Called at the start and whenever a source has changed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from router.engine.flags import Arg, FlagTable, merge, switch_of, value_of
from router.errors import CatalogError
from router.hub import cache as hub
from router.hub import links
from router.hub.cache import CacheEntry
from router.hub.names import canonical, without_host
from router.models.catalog import Catalog, quoted
from router.models.folder import FoundModel, find_models
from router.models.ini import DEFAULTS
from router.models.presets import Preset, PresetFile
from router.models.shards import shards, stem
from router.models.spec import (
    DOWNLOAD_FLAGS,
    FILE_FLAGS,
    LINK_FLAGS,
    MODEL_FLAGS,
    SINGLE_MODEL_FLAGS,
    ModelSpec,
    Source,
    comma_separated,
    draft_kind,
)
from router.redaction import without_credentials

logger = logging.getLogger("router.catalog")


def build(
    file: PresetFile,
    cached: Sequence[CacheEntry],
    *,
    models_dir: Path | None,
    cache_root: Path,
    global_args: Sequence[Arg],
    table: FlagTable,
    default_name: str | None,
    offline: bool,
    wanted: Sequence[str] = (),
    created: Mapping[str, FoundModel] | None = None,
) -> Catalog:
    """The catalog of all sources. Raises CatalogError.

    `global_args` are the command line's, for all children. A model that they name is the only one, unless `models_dir`
    or a preset file add more.
    `wanted` are names on the hub that are models even if the cache does not have them.
    `created` are models that clients have made of files.
    """
    own_args = [arg for arg in global_args if arg.flag.name in SINGLE_MODEL_FLAGS]
    common_args = [arg for arg in global_args if arg.flag.name not in SINGLE_MODEL_FLAGS]
    defaults = Preset(DEFAULTS) if file.foreign else file.defaults
    single = _single_model(own_args, defaults)
    found: dict[str, FoundModel] = {}
    if models_dir or file.path or not single:
        found = {entry.name: FoundModel("cache", entry.files[0], entry.mmproj) for entry in cached}
    if models_dir:
        found |= find_models(models_dir)
    found = {**(created or {}), **found}
    _check_foreign_names(file, found)

    builder = _SpecBuilder(table, cache_root, offline, common_args)
    sections = _named_as_the_hub(file.presets, found)
    models = []
    if single:
        sections.pop(single.name, None)
        found.pop(single.name, None)
        models.append(builder.spec(single, "command_line", own_args))
    folded = {name.casefold(): name for name in found}
    models += [
        builder.spec(preset, "preset", (), found.pop(folded.get(name.casefold(), name), None))
        for name, preset in sections.items()
    ]
    hidden = {path for preset in file.presets if preset.dedup_cache_models for path in builder.cached_files(preset)}
    for name, model in found.items():
        spec = builder.spec(replace(defaults, name=name), model.source, (), model)
        is_hidden = spec.source == "cache" and model.path in hidden
        models.append(replace(spec, unlisted=spec.unlisted or is_hidden))
    known = {name for spec in models for name in (spec.name, *spec.aliases)}
    for name in wanted:
        entry = hub.find(cache_root, name)  # another client may have downloaded it, and the cache may call it otherwise
        if name not in known and (entry is None or entry.name not in known):
            models.append(builder.spec(replace(defaults, name=name), "cache", builder.args(name, "--hf-repo")))
    if not models:
        logger.warning("there are no models: give --models-dir, --models-preset, or a Hugging Face cache")
    return Catalog(models, default_name)


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
        if file.foreign and preset.name in found and found[preset.name].source == "models_dir":
            raise CatalogError(
                f"[{preset.name}] of a preset file from the hub is a model of --models-dir: rename that, or copy "
                "the file, and name the copy by --models-preset"
            )


def _single_model(args: Sequence[Arg], defaults: Preset) -> Preset | None:
    """The model that the command line itself names; None if it names none."""
    sources = [arg for arg in args if arg.flag.name in MODEL_FLAGS]
    if not sources:
        return None
    path, repo = value_of(args, "--model"), value_of(args, "--hf-repo")
    other = " ".join(sources[0].values) or sources[0].flag.name.lstrip("-")
    if (url := value_of(args, "--model-url")) and not links.fault(url):
        other = stem(Path(links.file_name(url)))
    name = stem(Path(path)) if path else without_host(repo) if repo else other
    aliases, tags = (comma_separated(value_of(args, flag) or "") for flag in ("--alias", "--tags"))
    return replace(defaults, name=name, aliases=aliases, tags=(*defaults.tags, *tags))


class _SpecBuilder:
    """Makes a ModelSpec of a preset and of what was found on disk. `common` are the arguments that win over all."""

    def __init__(self, table: FlagTable, cache_root: Path, offline: bool, common: Sequence[Arg]) -> None:
        self.table, self.cache_root, self.offline, self.common = table, cache_root, offline, common

    def __repr__(self) -> str:
        return f"<_SpecBuilder with cache {self.cache_root}{', offline' if self.offline else ''}>"

    def spec(self, preset: Preset, source: Source, own: Sequence[Arg], found: FoundModel | None = None) -> ModelSpec:
        """`own` are the command line's arguments for this one model. `found` are its files, if it was found."""
        lowest = self.args(",".join(preset.device), "--device") if preset.device else []
        if found and not any(arg.flag.name in MODEL_FLAGS for arg in preset.args):
            lowest += self.file_args(found)
        own = [arg for arg in own if arg.flag.name not in ("--alias", "--tags")]
        args = merge(lowest, preset.args, own, self.common)
        if found and found.source == "cache" and (kind := draft_kind(args)):
            entry = hub.find(self.cache_root, preset.name, drafting=kind)
            args = merge(self.file_args(replace(found, draft=entry.draft if entry else None)), args)
        args, problem = self.with_files(args)
        path, mmproj = value_of(args, "--model"), value_of(args, "--mmproj")
        is_missing = any(value_of(args, flag) for flag in DOWNLOAD_FLAGS)
        model_path = Path(path) if path and not problem and not is_missing else None
        return ModelSpec(
            name=preset.name,
            source=source,
            args=args,
            model_path=model_path,
            mmproj_path=Path(mmproj) if mmproj and not problem else None,
            size_bytes=_total_bytes(shards(model_path)) if model_path else 0,
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
            unlisted=preset.unlisted,
            description=preset.description,
            env=preset.env,
            filters=preset.filters,
        )

    def with_files(self, args: tuple[Arg, ...]) -> tuple[tuple[Arg, ...], str | None]:
        """The arguments, in which what was downloaded is replaced by its files; and the first problem with them, None
        if there is none."""
        args = tuple(_without_host(arg) for arg in args)
        repo, docker = value_of(args, "--hf-repo"), value_of(args, "--docker-repo")
        if docker:
            args, problem = self.with_docker(args, docker)
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
        args, problem = self.with_links(args)
        return args, problem or file_problem(args) or self.draft_problem(args)

    def with_docker(self, args: Sequence[Arg], docker: str) -> tuple[tuple[Arg, ...], str | None]:
        """As `with_files`, for a model of a registry of Docker."""
        reference = links.Reference.parse(docker)
        if reference is None:
            return tuple(args), f"docker-repo = {quoted(docker)} is no name of the form ai/MODEL or ai/MODEL:TAG"
        files = links.docker_files(self.cache_root, reference)
        if files is None:
            return tuple(args), self.offline_problem(str(reference))
        kept = [arg for arg in args if arg.flag.name not in MODEL_FLAGS]
        return merge(self.file_args(FoundModel("cache", *files)), kept), None

    def with_links(self, args: Sequence[Arg]) -> tuple[tuple[Arg, ...], str | None]:
        """As `with_files`, for files by their addresses."""
        for flag, names in LINK_FLAGS.items():
            if not (url := value_of(args, flag)):
                continue
            key = flag.lstrip("-")
            if fault := links.fault(url):
                return tuple(args), f"{key} = {quoted(without_credentials(url))} {fault}"
            own = value_of(args, "--model") if flag == "--model-url" else None
            wanted = links.links(self.cache_root, url, Path(own) if own else None)
            if links.are_here(wanted):
                args = [arg for arg in args if arg.flag.name != flag]
                if not own:
                    args = merge(self.args(str(wanted[0].path), *names), args)
            elif problem := self.offline_problem(links.shown(url)):
                return tuple(args), problem
        return tuple(args), None

    def offline_problem(self, what: str) -> str | None:
        return f"{what} is not here, and --offline forbids to download it" if self.offline else None

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
                which = f"the shard {part.name} of {len(parts)}" if len(parts) > 1 else f"the file {part}"
                folder = os.path.abspath(part.parent)
                yield arg.flag.name, f"{which} is missing (in {folder}): put it there or change the path"


def _total_bytes(paths: Iterable[Path]) -> int:
    try:
        return sum(map(os.path.getsize, paths))
    except OSError:  # a file has gone since it was found: loading the model will report that
        return 0
