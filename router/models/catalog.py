"""Every model that could run, by name; one frozen listing, replaced whole when the sources are read again.

Three sources, as in llama.cpp's router (tools/server/server-models.cpp, common/preset.cpp): the Hugging Face cache, a
folder of models, a preset file whose sections add models or are merged over found ones; and a model that the command
line itself names. Arguments: command line over section over `[*]`.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from cachetools import LRUCache

from router import files
from router.engine.flags import SOURCES, Arg, FlagTable, merge, render, switch_of, value_of, variable_of
from router.errors import CatalogError, GgufError, InvalidRequest, UnknownModel
from router.hub import cache as hub
from router.hub.cache import CacheEntry
from router.hub.repo import DEFAULT_QUANTS, DRAFTS
from router.models import gguf, presets, template
from router.models.presets import Filters, Preset, PresetFile, Problem
from router.models.template import Reasoning, Template
from router.near import nearest

logger = logging.getLogger("router.catalog")

_Named = TypeVar("_Named", "ModelSpec", Preset)

Source = Literal["preset", "models_dir", "cache", "command_line"]

DRAFT_FILES = ("mtp-", "dspark-", "dflash-")
MODELS = SOURCES - {"--hf-token"}  # flags that say which model it is
# On the command line these are that one model's, not all models'.
IDENTITY = MODELS | {"--mmproj", "--mmproj-url", "--alias", "--tags"}
FILES = ("--model", "--spec-draft-model", "--mmproj")  # without which it cannot be loaded; so the engine reads them
NO_PRESETS = PresetFile(None, Preset("*"), ())


@dataclass(frozen=True, slots=True)
class Info:
    """What a model's files say of it. None is unknown: a model that is not here yet, or cannot be read (`problem`)."""

    architecture: str | None = None
    quantization: str | None = None
    n_ctx_train: int | None = None
    n_params: int | None = None
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    capabilities: tuple[str, ...] = ("completion",)
    reasoning: Reasoning | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model. `args` is complete, without what the router owns; `model_path` is the first shard, None for a model
    that its child will download. `problem` is the sentence that a request for it gets, None when there is none.
    Times are seconds; `ttl` None is the router's default. `template` is a chat template that replaces the file's own;
    the child gets it as a private file. `filters` are for its requests. `info` is empty until `described`.
    """

    name: str
    source: Source
    args: tuple[Arg, ...]
    model_path: Path | None = None
    mmproj_path: Path | None = None
    size_bytes: int = 0
    problem: str | None = None
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    stop_timeout: float = 10.0
    load_on_startup: bool = False
    pin: bool = False
    ttl: float | None = None
    priority: int = 0
    devices: tuple[str, ...] = ()
    unlisted: bool = False
    description: str = ""
    env: tuple[tuple[str, str], ...] = ()
    template: str | None = None
    filters: Filters | None = None
    info: Info = Info()

    @property
    def identity(self) -> str:
        """Which model this is, whatever its flags: the file, in the cache of whatever revision, or what is fetched."""
        if self.model_path is None:
            return " ".join(render(arg for arg in self.args if arg.flag.name in MODELS))
        return re.sub(r"/snapshots/[^/]+/", "/", str(self.model_path))

    @property
    def repo_to_download(self) -> str | None:
        """The name on the hub of what has to be downloaded before it can be loaded."""
        return None if self.model_path or self.problem else value_of(self.args, "--hf-repo")

    @property
    def draft_kind(self) -> str | None:
        """The kind of drafting for which the repository on the hub may have a draft model beside it."""
        return _drafting(self.args)

    def is_from_repo(self, name: str) -> bool:
        """Its file is one of the repository on the hub that is named so."""
        return self.model_path is not None and hub.is_in(self.model_path, name)

    def with_args(self, args: Sequence[Arg], template: str | None = None) -> ModelSpec:
        """The same model with other arguments. Its `info` may no longer be right: that of the file is."""
        if switch_of(args, "--mmproj-auto") is False:
            args = [arg for arg in args if arg.flag.name != "--mmproj"]
        mmproj = value_of(args, "--mmproj")
        return replace(
            self,
            args=tuple(args),
            mmproj_path=Path(mmproj) if mmproj else None,
            devices=_words(value_of(args, "--device") or ""),
            template=template,
        )

    @property
    def files_to_prefetch(self) -> tuple[Path, ...]:
        """What its process reads through the page cache as it starts, in this order; nothing with direct I/O, which
        older builds have a switch for."""
        if value_of(self.args, "--load-mode") == "dio" or switch_of(self.args, "--direct-io"):
            return ()
        named = (value for flag in FILES if (value := value_of(self.args, flag)))
        return tuple(part for path in named for part in gguf.shards(Path(path)))

    @property
    def argv(self) -> tuple[str, ...]:
        """`args` as the child gets them: its GPUs it gets by the visibility mask, secrets by `secret_env`."""
        told = (arg for arg in self.args if "--device" not in arg.flag.spellings and not variable_of(arg))
        return tuple(render(told))

    @property
    def secret_env(self) -> tuple[tuple[str, str], ...]:
        """As variables, which only this user's processes can read."""
        return tuple((name, arg.values[-1]) for arg in self.args if arg.values and (name := variable_of(arg)))

    def described(self) -> ModelSpec:
        """With `info` from the headers. Blocks: it reads files, for some ms, 0.1 s for a large model; what it learns is
        kept by file identity."""
        return replace(self, info=self._info())

    def _info(self) -> Info:
        if self.model_path is None or self.problem:
            return Info(problem=self.problem)
        try:
            override = self._override()
            parts = filter(None, (self.model_path, self.mmproj_path))
            key = (*map(_identity, parts), self._serves(), override)
            with _lock:
                info = _infos.get(key)
            info = info or self._read(override)
        except (OSError, GgufError) as error:
            return Info(problem=str(error))
        with _lock:
            _infos[key] = info
        return info

    def _read(self, override: str | None) -> Info:
        assert self.model_path is not None
        model = gguf.read_model(self.model_path)
        projector = gguf.read(self.mmproj_path).fields if self.mmproj_path else {}
        image, audio = (projector.get(f"clip.has_{kind}_encoder") is True for kind in ("vision", "audio"))
        pooled = {None: "completion", "none": "completion", "rank": "rerank"}.get(model.pooling, "embedding")
        serves = self._serves() or pooled
        text = (model.chat_template or "") if override is None else override
        chat = template.read(text) if serves == "completion" else Template()
        fills = serves == "completion" and "tokenizer.ggml.fim_pre_token_id" in model.fields
        extra = {"vision": image, "audio": audio, "tools": chat.tools, "thinking": chat.reasoning, "insert": fills}
        return Info(
            architecture=model.architecture or None,
            quantization=model.quantization,
            n_ctx_train=model.context_length or None,
            n_params=model.n_params,
            input_modalities=("text", *(["image"] if image else []), *(["audio"] if audio else [])),
            capabilities=(serves, *(name for name, has in extra.items() if has)),
            reasoning=chat.reasoning,
        )

    def _override(self) -> str | None:
        """The chat template that counts instead of the file's own. The name of one that the engine has built in is all
        that is known of it."""
        if self.template is not None:
            return self.template
        given = [arg for arg in self.args if arg.flag.name in ("--chat-template", "--chat-template-file")]
        if not given:
            return None
        value = given[-1].values[0]
        return _text(Path(value)) if given[-1].flag.name == "--chat-template-file" else value

    def _serves(self) -> str | None:
        """What flags make of the model, whatever its header says."""
        flags = {"--rerank": "rerank", "--embedding": "embedding"}
        return next((what for flag, what in flags.items() if switch_of(self.args, flag)), None)


def _text(path: Path) -> str:
    """As much of a template's file as can matter; nothing of one that cannot be read: the load will tell."""
    try:
        return files.start(path, 4 * template.LONGEST + 4).decode(errors="replace")[: template.LONGEST + 1]
    except (OSError, ValueError):
        return ""


_infos: LRUCache[tuple[object, ...], Info] = LRUCache(4096)
_lock = threading.Lock()


def _identity(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


class Catalog:
    """Immutable. Raises CatalogError when one name means two models, or the default means none."""

    def __init__(self, models: Iterable[ModelSpec], default_name: str | None = None) -> None:
        self.models = tuple(models)
        self.default_name = default_name
        self._names = {spec.name: spec for spec in self.models}
        self._quants: dict[str, dict[str, ModelSpec]] = {}  # of repositories, in upper case
        for spec in self.models:
            self._names |= dict.fromkeys(spec.aliases, spec)
            repo, colon, quant = spec.name.partition(":")
            if colon:
                self._quants.setdefault(repo, {})[quant.upper()] = spec
        for _, sentence in _clashes(self.models):
            raise CatalogError(sentence)
        self._default = self.models[0] if len(self.models) == 1 else None
        if default_name is not None:
            self._default = self._find(default_name)
            if self._default is None:
                hint = self._hint(default_name, "llama-router list tells what there is")
                raise CatalogError(f"--models-default: there is no model {_shown(default_name)}; {hint}")

    def __len__(self) -> int:
        return len(self.models)

    def __contains__(self, name: str) -> bool:
        """Whether a model has this very name, not only as an alias."""
        return name in self._names and self._names[name].name == name

    def resolve(self, name: str | None) -> ModelSpec:
        """The model that a request names; without a name the default one, or the only one.

        `user/repo` means its Q4_K_M, else its first; a quant may be written in any case. Raises UnknownModel,
        InvalidRequest for no name.
        """
        if not name:
            if self._default is None:
                raise InvalidRequest('name a "model": there is no default, and GET /v1/models lists what there is')
            return self._default
        spec = self._find(name)
        if spec is None:
            hint = self._hint(name, "GET /v1/models lists what there is")
            raise UnknownModel(f"there is no model {_shown(name)}; {hint}")
        return spec

    def _find(self, name: str) -> ModelSpec | None:
        return self._names.get(name) or self._by_repository(name)

    def _by_repository(self, name: str) -> ModelSpec | None:
        parts = hub.split(name)
        if parts is None:
            return None
        repo, quant = parts
        of_repo = self._quants.get(repo, {})
        if quant is None and of_repo:
            defaults = (of_repo[quant] for quant in DEFAULT_QUANTS if quant in of_repo)
            return next(defaults, next(iter(of_repo.values())))
        return of_repo.get((quant or "").upper())

    def _hint(self, name: str, otherwise: str) -> str:
        near = nearest(name, (known for known, spec in self._names.items() if not spec.unlisted), 3)
        return f"did you mean {' or '.join(near)}?" if near else otherwise


def _clashes(models: Sequence[_Named]) -> Iterator[tuple[_Named, str]]:
    """Models with an alias that is a name of another one too, each with a sentence."""
    owners = {model.name: model for model in models}
    for model in models:
        for alias in model.aliases:
            other = owners.setdefault(alias, model)
            if other is not model:
                sentence = f"the alias {alias!r} of model {model.name!r} is also a name of model {other.name!r}"
                yield model, f"{sentence}: change one"


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}...")


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
) -> Catalog:
    """From all sources; no headers, no network. Raises CatalogError.

    `global_args` are the command line's, for all children. A model named there is the only one, unless `models_dir`
    or a preset file give more. `wanted` are names on the hub that are models even if the cache lacks them.
    """
    own = [arg for arg in global_args if arg.flag.name in IDENTITY]
    defaults = Preset("*") if file.foreign else file.defaults
    single = _single(own, defaults)
    found: dict[str, _Found] = {}
    if models_dir or file.path or not single:
        found = {entry.name: _Found("cache", entry.files[0], entry.mmproj) for entry in cached}
    if models_dir:
        found |= _models_dir(models_dir)

    common = [arg for arg in global_args if arg.flag.name not in IDENTITY]
    builder = _Builder(table, cache_root, offline, common)
    sections = {preset.name: preset for preset in file.presets}
    for name in sections:
        if file.foreign and name in found and found[name].source == "models_dir":
            raise CatalogError(
                f"[{name}] of a preset file from the hub is a model of --models-dir: rename that, or copy "
                "the file, and name the copy by --models-preset"
            )
    if single:
        sections.pop(single.name, None)
        found.pop(single.name, None)
    models = [builder.spec(single, "command_line", own)] if single else []
    models += [builder.spec(preset, "preset", (), found.pop(name, None)) for name, preset in sections.items()]
    hidden = {path for preset in file.presets if preset.dedup_cache_models for path in builder.cached(preset)}
    for name, model in found.items():
        spec = builder.spec(replace(defaults, name=name), model.source, (), model)
        models.append(replace(spec, unlisted=spec.unlisted or (spec.source == "cache" and model.path in hidden)))
    named = {name for spec in models for name in (spec.name, *spec.aliases)}
    for name in wanted:
        if name not in named:
            models.append(builder.spec(replace(defaults, name=name), "cache", builder.arg(name, "--hf-repo")))
    if not models:
        logger.warning("there are no models: give --models-dir, --models-preset, or a Hugging Face cache")
    return Catalog(models, default_name)


def _single(own: Sequence[Arg], defaults: Preset) -> Preset | None:
    """The model that the command line itself names, if it does."""
    sources = [arg for arg in own if arg.flag.name in MODELS]
    if not sources:
        return None
    path, repo = value_of(own, "--model"), value_of(own, "--hf-repo")
    name = _stem(Path(path)) if path else repo or " ".join(sources[0].values) or sources[0].flag.name.lstrip("-")
    aliases, tags = (_words(value_of(own, flag) or "") for flag in ("--alias", "--tags"))
    return replace(defaults, name=name, aliases=aliases, tags=(*defaults.tags, *tags))


def _drafting(args: Sequence[Arg]) -> str | None:
    """What the engine would look for beside the model in its repository (common/arg.cpp)."""
    if value_of(args, "--spec-draft-model") or value_of(args, "--spec-draft-hf"):
        return None
    kinds = _words(value_of(args, "--spec-type") or "")
    return next((kind for kind in DRAFTS if f"draft-{kind}" in kinds), None)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for part in text.split(",") if (word := part.strip()))


@dataclass(frozen=True, slots=True)
class _Found:
    """A model that was discovered, and the companions beside it."""

    source: Source
    path: Path
    mmproj: Path | None = None
    draft: Path | None = None


class _Builder:
    """Makes ModelSpecs of presets and discoveries; `common` are the arguments that win over everyone's."""

    def __init__(self, table: FlagTable, cache_root: Path, offline: bool, common: Sequence[Arg]) -> None:
        self.table, self.cache_root, self.offline, self.common = table, cache_root, offline, common

    def spec(self, preset: Preset, source: Source, own: Sequence[Arg], found: _Found | None = None) -> ModelSpec:
        below = self.arg(",".join(preset.device), "--device") if preset.device else []
        if found and not any(arg.flag.name in MODELS for arg in preset.args):
            below += self.args(found)
        own = [arg for arg in own if arg.flag.name not in ("--alias", "--tags")]
        args = merge(below, preset.args, own, self.common)
        if found and found.source == "cache" and (kind := _drafting(args)):
            entry = hub.find(self.cache_root, preset.name, drafting=kind)
            args = merge(self.args(replace(found, draft=entry.draft if entry else None)), args)
        args, problem = self.located(args)
        path, mmproj = value_of(args, "--model"), value_of(args, "--mmproj")
        model_path = Path(path) if path and not problem else None
        return ModelSpec(
            name=preset.name,
            source=source,
            args=args,
            model_path=model_path,
            mmproj_path=Path(mmproj) if mmproj and not problem else None,
            size_bytes=_bytes(gguf.shards(model_path)) if model_path else 0,
            problem=problem,
            aliases=tuple(alias for alias in dict.fromkeys(preset.aliases) if alias != preset.name),
            tags=preset.tags,
            stop_timeout=preset.stop_timeout,
            load_on_startup=preset.load_on_startup,
            pin=preset.pin,
            ttl=preset.ttl,
            priority=preset.priority,
            devices=_words(value_of(args, "--device") or ""),
            unlisted=preset.unlisted,
            description=preset.description,
            env=preset.env,
            filters=preset.filters,
        )

    def located(self, args: tuple[Arg, ...]) -> tuple[tuple[Arg, ...], str | None]:
        """The arguments with a cached repository turned into its files, and what is wrong with them."""
        repo = value_of(args, "--hf-repo")
        kind = _drafting(args)
        if repo and (entry := hub.find(self.cache_root, repo, value_of(args, "--hf-file"), drafting=kind)):
            kept = [arg for arg in args if arg.flag.name not in ("--hf-repo", "--hf-file", "--hf-token", "--model")]
            # below what is kept: a projector that was named is the better one
            args = merge(self.args(_Found("cache", entry.files[0], entry.mmproj, entry.draft)), kept)
        elif repo and hub.split(repo) is None:
            return args, f"hf-repo = {_shown(repo)} is no name of the form user/repo or user/repo:quant"
        elif repo and self.offline:
            return args, f"{repo} is not in the cache {self.cache_root}, and --offline forbids to download it"
        elif repo:
            return args, None
        if switch_of(args, "--mmproj-auto") is False:
            args = tuple(arg for arg in args if arg.flag.name != "--mmproj")
        return args, _missing(args) or self.draftless(args)

    def draftless(self, args: Sequence[Arg]) -> str | None:
        """What is wrong with a draft model that the child would download."""
        draft = value_of(args, "--spec-draft-hf")
        if not draft or not self.offline or hub.find(self.cache_root, draft):
            return None
        return f"the draft model {draft} is not in the cache {self.cache_root}, and --offline forbids to download it"

    def args(self, found: _Found) -> list[Arg]:
        args = self.arg(str(found.path), "--model")
        args += self.arg(str(found.mmproj), "--mmproj") if found.mmproj else []
        return args + (self.arg(str(found.draft), "--spec-draft-model", "--model-draft") if found.draft else [])

    def arg(self, value: str, *spellings: str) -> list[Arg]:
        """Under the first of the names that this build of the engine knows."""
        flags = [flag for spelling in spellings if (flag := self.table.find(spelling))]
        return [Arg(flag, (value,)) for flag in flags[:1]]

    def cached(self, preset: Preset) -> list[Path]:
        """The cached files behind a preset's repositories."""
        args = merge(preset.args, self.common)
        repos = [(value_of(args, "--hf-repo"), value_of(args, "--hf-file")), (value_of(args, "--spec-draft-hf"), None)]
        entries = [hub.find(self.cache_root, repo, file) for repo, file in repos if repo]
        return [entry.files[0] for entry in entries if entry]


def examine(path: Path, table: FlagTable) -> tuple[PresetFile, tuple[Problem, ...]]:
    """A preset file with all its mistakes, in the order of their lines: those of the text, names that mean two models,
    files of models that are not there. Raises PresetError when it cannot be read at all."""
    file, problems = presets.examine(path, table)
    clashes = [_problem(preset, "alias", sentence) for preset, sentence in _clashes(file.presets)]
    absent = [_problem(preset, *found) for preset in file.presets for found in _absent(preset.args)]
    every = dict.fromkeys((*problems, *clashes, *absent))  # those of [*] once
    return file, tuple(sorted(every, key=lambda problem: problem.line))


def _problem(preset: Preset, key: str, sentence: str) -> Problem:
    return Problem(int(preset.origins[key].rpartition(":")[2]), key.lstrip("-"), sentence)


def _missing(args: Sequence[Arg]) -> str | None:
    """What of the model is not there, in a sentence."""
    if not any(arg.flag.name in MODELS for arg in args):
        return "no model is named: add model = FILE or hf-repo = user/repo to its section"
    return next((sentence for _, sentence in _absent(args)), None)


def _absent(args: Sequence[Arg]) -> Iterator[tuple[str, str]]:
    """The flags that name a file of the model that is not there, each with a sentence."""
    is_fetched = any(arg.flag.name in MODELS - {"--model"} for arg in args)  # then --model says where to
    for arg in args:
        if arg.flag.name in FILES and not (is_fetched and arg.flag.name == "--model"):
            parts = gguf.shards(Path(arg.values[0]))
            if part := next((part for part in parts if not os.path.isfile(part)), None):
                which = f"the shard {part.name} of {len(parts)}" if len(parts) > 1 else f"the file {part}"
                folder = os.path.abspath(part.parent)
                yield arg.flag.name, f"{which} is missing (in {folder}): put it there or change the path"


def _bytes(files: Iterable[Path]) -> int:
    try:
        return sum(map(os.path.getsize, files))
    except OSError:  # gone since it was found: the load will tell
        return 0


def _models_dir(folder: Path) -> dict[str, _Found]:
    """`x.gguf` is x, `sub/` with a model in it is sub; no deeper. Raises CatalogError."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise CatalogError(f"--models-dir {folder}: {error.strerror}; name a folder that holds .gguf files") from error
    found: dict[str, _Found] = {}
    for entry in entries:
        if entry.is_dir():
            name, model = entry.name, _subfolder(entry)
        else:
            name, model = _stem(entry), _Found("models_dir", entry) if _is_model(entry) else None
        if model is None:
            continue
        if name in found:
            raise CatalogError(f"{model.path} and {found[name].path} would both be the model {name!r}: rename one")
        found[name] = model
    return found


def _subfolder(folder: Path) -> _Found | None:
    try:
        files = sorted(file for file in folder.iterdir() if _is_gguf(file))
    except OSError as error:
        logger.warning("%s is left out: %s", folder, error.strerror)
        return None
    models = sorted(filter(_is_model, files), key=lambda file: gguf.SHARD.fullmatch(file.name) is None)
    if not models:
        return None
    if len(models) > 1:
        logger.warning("%s holds several models; %s is taken: give each a folder of its own", folder, models[0].name)
    projectors = sorted((file for file in files if "mmproj" in file.name), key=lambda file: "-F16." not in file.name)
    drafts = (file for file in files if file.name.startswith(DRAFT_FILES))
    return _Found("models_dir", models[0], next(iter(projectors), None), next(drafts, None))


def _is_gguf(file: Path) -> bool:
    return file.name.endswith(".gguf") and not file.name.startswith(".") and file.is_file()


def _is_model(file: Path) -> bool:
    """Not a companion, and not a shard after the first."""
    companion = "mmproj" in file.name or file.name.startswith(DRAFT_FILES)
    return _is_gguf(file) and not companion and file == gguf.shards(file)[0]


def _stem(file: Path) -> str:
    shard = gguf.SHARD.fullmatch(file.name)
    return shard[1] if shard else file.name.removesuffix(".gguf")
