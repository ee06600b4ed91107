"""One model as data: its name, its arguments, its files, and what the router does with it.

A `ModelSpec` is made once, when the catalog is built, and never changes; every other package receives models in this
form. Nothing here reads a file: what the files say is added by `describe`, as the spec's `info`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from router.engine.flags import MODEL_SOURCES, Arg, render, secret_variable, switch_of, value_of
from router.hub import cache as hub
from router.hub import links
from router.hub.repo import DRAFTS
from router.models.shards import shards
from router.models.template import TAKES_ALL, Reasoning, Roles

Source = Literal["preset", "models_dir", "cache", "command_line"]

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
class ModelSpec:
    """One model of the catalog.

    `args` are all arguments of its child, except those that the router itself sets.
    `model_path` is the first shard; None if the file is not here.
    `problem` is the sentence that answers a request for a model that cannot run; None if it can.
    `stop_timeout`, `ttl` and `min_loaded` are seconds; where one is None the router's default holds.
    `template` is the text of a chat template that replaces the one in the file; the child reads it from a private file.
    `filters` change the requests for this model.
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
    unlisted: bool = False
    description: str = ""
    env: tuple[tuple[str, str], ...] = ()
    template: str | None = None
    filters: Filters | None = None
    info: Info = UNREAD

    def __repr__(self) -> str:
        # No arguments and no variables: some of them are secrets.
        state = "with a problem" if self.problem else str(self.model_path or "not here yet")
        return f"<ModelSpec {self.name} from {self.source}: {state}>"

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

    def with_args(self, args: Sequence[Arg], template: str | None = None) -> ModelSpec:
        """The same model with other arguments. `info` is copied, although other arguments may make another answer."""
        if switch_of(args, "--mmproj-auto") is False:
            args = [arg for arg in args if arg.flag.name != "--mmproj"]
        mmproj = value_of(args, "--mmproj")
        return replace(
            self,
            args=tuple(args),
            mmproj_path=Path(mmproj) if mmproj else None,
            devices=comma_separated(value_of(args, "--device") or ""),
            template=template,
        )

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
