"""One model as data: its name, its arguments, its files, and what the router does with it.

A `ModelSpec` is made once, when the catalog is built, and never changes; every other package receives models in this
form. Nothing here reads a file: what the files say is added by `describe`, as the spec's `info`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from router.engine.flags import MODEL_SOURCES, Arg, render, secret_variable, switch_of, value_of
from router.hub import cache as hub
from router.hub import links
from router.hub.repo import DRAFTS
from router.models.shards import shards
from router.models.template import TAKES_ALL, Reasoning, Roles

Source = Literal["preset", "models_dir", "cache", "command_line", "ollama", "lmstudio"]

# Flags that say which model it is. A token alone names none.
MODEL_FLAGS = MODEL_SOURCES - {"--hf-token"}
# Flags of the command line that belong to the one model that it names. All its other flags are for every model.
SINGLE_MODEL_FLAGS = MODEL_FLAGS | {"--mmproj", "--mmproj-url", "--alias", "--tags"}
# Flags that name a file by its address, each with the flags that name it on disk, in the order of preference.
LINK_FLAGS: Mapping[str, tuple[str, ...]] = {
    "--model-url": ("--model",),
    "--mmproj-url": ("--mmproj",),
    "--model-draft-url": ("--spec-draft-model", "--model-draft"),
    "--spec-draft-model-url": ("--spec-draft-model", "--model-draft"),
}
# Flags that name what the router downloads for a model. Of several sources of a model, the engine takes the first.
DOWNLOAD_FLAGS = ("--docker-repo", "--hf-repo", *LINK_FLAGS)
# Flags that name a file without which the model cannot be loaded, in the order in which the engine reads them.
FILE_FLAGS = ("--model", "--spec-draft-model", "--mmproj")


@dataclass(frozen=True, slots=True)
class Info:
    """What a model's files say about it.

    A field is None if it is not known: the file is not here yet, or it cannot be read. `problem` says why then.
    `warning` says what of the model is left out.
    `other_kind` is what the file is if it is no language model (see `kinds`); `problem` says so too.
    """

    architecture: str | None = None
    quantization: str | None = None
    n_ctx_train: int | None = None
    n_params: int | None = None
    n_embd: int | None = None
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    capabilities: tuple[str, ...] = ("completion",)
    reasoning: Reasoning | None = None
    roles: Roles = TAKES_ALL
    problem: str | None = None
    warning: str | None = None
    other_kind: str | None = None


# Of a model whose files have not been read yet. It is compared by identity: a file may say nothing of interest.
UNREAD = Info()


@dataclass(frozen=True, slots=True)
class Filters:
    """How the requests for a model are changed. Each value is JSON text, paired with the name of its field.

    `forced` values replace what the request says.
    `defaults` are used where the request says nothing.
    `dropped` fields are removed before the model sees the request.
    `system` is put before the system message.
    `default_system` is the system message of a chat that has none.
    `messages` is the JSON text of messages that come before those of a chat, after its system message.
    """

    forced: tuple[tuple[str, str], ...] = ()
    defaults: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    system: str = ""
    default_system: str = ""
    messages: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """What the store of another program says of a model, beside its files (`models.stores`).

    `digest` is the SHA-256 of its manifest, `modified_at` the time of that, in seconds since 1970, and `size` the bytes
    of all its files. `details` are shown as they are, in the fields of Ollama's API.
    `system`, `parameters` and `messages` are in Ollama's words; `defaults` are the parameters as fields of a request to
    the engine, each with its value as JSON text, and `load` flags of its process with their values.
    `licenses` are files. `notes` say what of the package has no effect here.
    `operator_filters` are those of the model's preset alone; the model's `filters` have the package's too.
    """

    program: str
    digest: str
    modified_at: float
    size: int
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    defaults: tuple[tuple[str, str], ...] = ()
    messages: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    load: tuple[tuple[str, str], ...] = ()
    licenses: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    operator_filters: Filters | None = None

    def __repr__(self) -> str:  # prompts are not shown
        return f"<Package of {self.program}, {self.digest[:12]}>"

    @property
    def settings(self) -> tuple[object, ...]:
        """What makes a difference to an answer, to be compared and kept in a set."""
        return self.system, json.dumps([self.parameters, list(self.messages)], sort_keys=True), self.load

    def with_filters(self, filters: Filters | None) -> Filters | None:
        """The filters of a preset, which win, over what the package says."""
        if not (self.defaults or self.system or self.messages):
            return filters
        own = filters or Filters()
        return replace(
            own,
            defaults=tuple({**dict(self.defaults), **dict(own.defaults)}.items()),
            default_system=self.system,
            messages=json.dumps(list(self.messages)) if self.messages else "",
        )


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of the catalog.

    `args` are all arguments of its child, except those that the router itself sets.
    `model_path` is the first shard; None if the file is not here.
    `found_mmproj` is whether the router found the projector by itself; if not, somebody named it.
    `problem` is the sentence that answers a request for a model that cannot run; None if it can.
    `stop_timeout`, `ttl` and `min_loaded` are seconds; where one is None the router's default holds.
    `engine` is the llama-server that runs it, as `--engine` names one; empty for the router's own.
    `template` is the text of a chat template that replaces the one in the file; the child reads it from a private file.
    `filters` change the requests for this model; `params_by_name` are fields that are forced too if a request calls the
    model by that name.
    `package` is there for a model of another program's store.
    `info` is UNREAD until `describe` has filled it in.

    ::

        spec = catalog.resolve("qwen3")
        spec.model_path  # Path("/models/qwen3.gguf")
        spec.argv        # ("--model", "/models/qwen3.gguf", "--ctx-size", "8192")
    """

    name: str
    source: Source
    args: tuple[Arg, ...]
    model_path: Path | None = None
    mmproj_path: Path | None = None
    found_mmproj: bool = False
    size_bytes: int = 0
    problem: str | None = None
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    stop_timeout: float = 10.0
    load_on_startup: bool = False
    pin: bool = False
    ttl: float | None = None
    min_loaded: float | None = None
    priority: int = 0
    devices: tuple[str, ...] = ()
    engine: str = ""
    unlisted: bool = False
    description: str = ""
    env: tuple[tuple[str, str], ...] = ()
    template: str | None = None
    filters: Filters | None = None
    package: Package | None = None
    params_by_name: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    info: Info = UNREAD

    def __repr__(self) -> str:
        # No arguments and no variables: some of them are secrets.
        state = "with a problem" if self.problem else str(self.model_path or "not here yet")
        return f"<ModelSpec {self.name} from {self.source}: {state}>"

    @property
    def store(self) -> str:
        """The kind of store of another program that holds its files: "ollama", "lmstudio", or "" for none."""
        return "ollama" if self.package else "lmstudio" if self.source == "lmstudio" else ""

    @property
    def identity(self) -> str:
        """Which model this is, whatever its other flags are: its file, or the arguments that say what to download.

        The commit in the path of a cached file is left out, so that an update of a repository is still the same model.
        """
        if self.model_path is None:
            return " ".join(render(arg for arg in self.args if arg.flag.name in MODEL_FLAGS))
        return re.sub(r"/snapshots/[^/]+/", "/", str(self.model_path))

    @property
    def repo_to_download(self) -> str | None:
        """What must be downloaded before the model can be loaded, as a name on the hub, an address, or a reference of
        Docker; None if nothing must be."""
        if self.model_path or self.problem:
            return None
        return next((value for flag in DOWNLOAD_FLAGS if (value := value_of(self.args, flag))), None)

    @property
    def is_no_model(self) -> bool:
        """Whether it was found on disk, and its header says that it is no language model: it is not offered. What the
        operator has named is a model with a problem."""
        return self.info.other_kind is not None and self.source not in ("preset", "command_line")

    @property
    def is_unread(self) -> bool:
        """Whether its files are here, and nothing is known yet of what they say."""
        return self.info is UNREAD and self.model_path is not None and not self.problem

    @property
    def draft_kind(self) -> str | None:
        """The kind of drafting for which a draft model may lie beside this model in its repository."""
        return draft_kind(self.args)

    def is_from_repo(self, name: str) -> bool:
        """Whether its file belongs to the repository `name` of the hub."""
        return self.model_path is not None and hub.is_file_of(self.model_path, name)

    def is_download_of(self, before: ModelSpec) -> bool:
        """Whether its files are those that `before` had to download."""
        source, paths = before.repo_to_download or "", [path for path in (self.model_path, self.mmproj_path) if path]
        if self.is_from_repo(source) or any(links.is_file_of(path, address(source)) for path in paths):
            return True
        wanted = value_of(before.args, "--model")  # where the operator wants a download to be kept
        return wanted is not None and "://" in source and self.model_path == Path(wanted)

    def called(self, name: str) -> ModelSpec:
        """The model as requests see it that call it by this name."""
        found = next((params for known, params in self.params_by_name if known == name), None)
        if found is None:
            folded = name.casefold()
            found = next((params for known, params in self.params_by_name if known.casefold() == folded), None)
        if found is None:
            return self
        filters = self.filters or Filters()
        return replace(self, filters=replace(filters, forced=tuple((dict(filters.forced) | dict(found)).items())))

    def with_args(self, args: Sequence[Arg], template: str | None = None) -> ModelSpec:
        """The same model with other arguments. `info` is copied, although other arguments may make another answer."""
        if switch_of(args, "--mmproj-auto") is False:
            args = [arg for arg in args if arg.flag.name != "--mmproj"]
        mmproj = value_of(args, "--mmproj")
        return replace(
            self,
            args=tuple(args),
            mmproj_path=Path(mmproj) if mmproj else None,
            found_mmproj=self.found_mmproj and mmproj == value_of(self.args, "--mmproj"),
            devices=comma_separated(value_of(args, "--device") or ""),
            template=template,
        )

    def without_projector(self) -> ModelSpec:
        return self.with_args([arg for arg in self.args if arg.flag.name != "--mmproj"], self.template)

    @property
    def files_to_prefetch(self) -> tuple[Path, ...]:
        """The files that its child reads through the page cache as it starts, in the order in which it reads them.

        None with direct I/O, which goes past the page cache. Older builds have a switch for it.
        """
        if value_of(self.args, "--load-mode") == "dio" or switch_of(self.args, "--direct-io"):
            return ()
        paths = (value for flag in FILE_FLAGS if (value := value_of(self.args, flag)))
        return tuple(part for path in paths for part in shards(Path(path)))

    @property
    def argv(self) -> tuple[str, ...]:
        """`args` as words of a command line, without GPUs and secrets.

        The child sees its GPUs by the visibility mask, and gets secrets as variables (`secret_env`).
        """
        shown = (arg for arg in self.args if "--device" not in arg.flag.spellings and not secret_variable(arg))
        return tuple(render(shown))

    @property
    def secret_env(self) -> tuple[tuple[str, str], ...]:
        """The secret arguments as variables: only this user's processes can read the environment of a process."""
        return tuple((name, arg.values[-1]) for arg in self.args if arg.values and (name := secret_variable(arg)))


def address(source: str) -> str:
    """An address, or a reference of Docker in the form of one."""
    return source if "://" in source else f"{links.DOCKER}{source}"


def draft_kind(args: Sequence[Arg]) -> str | None:
    """The kind of draft model that the engine looks for beside the model in its repository (common/arg.cpp).

    None if the arguments ask for no drafting, or name the draft model themselves.
    """
    if value_of(args, "--spec-draft-model") or value_of(args, "--spec-draft-hf"):
        return None
    kinds = comma_separated(value_of(args, "--spec-type") or "")
    return next((kind for kind in DRAFTS if f"draft-{kind}" in kinds), None)


def comma_separated(text: str) -> tuple[str, ...]:
    """The words between commas, without white space around them and without empty ones."""
    return tuple(word for part in text.split(",") if (word := part.strip()))
