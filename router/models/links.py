"""Which files of a model its arguments name by addresses, and the arguments once the files are here.

`build` asks whether they are here, the pool what there is to download.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from router.engine.flags import Arg, merge, value_of
from router.hub import links
from router.hub.links import Link, Reference
from router.models.catalog import quoted
from router.models.folder import FoundModel
from router.models.spec import LINK_FLAGS, MODEL_FLAGS
from router.redaction import without_credentials

# Arguments, and the first problem with them.
Checked = tuple[tuple[Arg, ...], str | None]


def link_sources(args: Sequence[Arg], root: Path) -> Iterator[tuple[str, tuple[Link, ...], Reference | None]]:
    """What is to be downloaded: the flag, the files of its address, or the model of a registry. `root` is the cache.

    The model comes last: as long as it is missing, what is to be downloaded keeps its name.
    """
    docker = value_of(args, "--docker-repo")
    has_model = bool(docker or value_of(args, "--hf-repo"))
    for flag in reversed(tuple(LINK_FLAGS)):
        url = value_of(args, flag)
        if not url or links.fault(url) or (has_model and flag == "--model-url"):
            continue
        wanted = _wanted(args, flag, url, root)
        if not links.are_here(wanted):
            yield flag, wanted, None
    if docker and (reference := Reference.parse(docker)):
        yield "--docker-repo", (), reference


def faults(args: Sequence[Arg]) -> Iterator[tuple[str, str]]:
    """Each flag whose value is no address, or no name in a registry, with a sentence about it."""
    for flag in LINK_FLAGS:
        if (url := value_of(args, flag)) and (fault := links.fault(url)):
            yield flag, f"{flag.lstrip('-')} = {quoted(without_credentials(url))} {fault}"
    docker = value_of(args, "--docker-repo")
    if docker and Reference.parse(docker) is None:
        yield "--docker-repo", f"docker-repo = {quoted(docker)} is no name of the form ai/MODEL or ai/MODEL:TAG"


def with_model_of_docker(
    args: Sequence[Arg], docker: str, root: Path, file_args: Callable[[FoundModel], Sequence[Arg]], *, offline: bool
) -> Checked:
    """The arguments with a model's files in the place of its name in a registry, if they are here."""
    reference = Reference.parse(docker)
    if reference is None:
        return tuple(args), next((sentence for _, sentence in faults(args)), None)
    files = links.docker_files(root, reference)
    if files is None:
        return tuple(args), _offline_problem(str(reference), offline=offline)
    kept = [arg for arg in args if arg.flag.name not in MODEL_FLAGS]
    return merge(file_args(FoundModel("cache", *files)), kept), None


def with_files(args: Sequence[Arg], root: Path, make_args: Callable[..., Sequence[Arg]], *, offline: bool) -> Checked:
    """The arguments with files in the place of their addresses, as far as they are here. `make_args` makes one of a
    value and its flag's spellings."""
    for flag, names in LINK_FLAGS.items():
        url = value_of(args, flag)
        if not url:
            continue
        if links.fault(url):
            return tuple(args), next((sentence for _, sentence in faults(args)), None)
        wanted = _wanted(args, flag, url, root)
        if links.are_here(wanted):
            args = [arg for arg in args if arg.flag.name != flag]
            args = merge(make_args(str(wanted[0].path), *names), args)
        elif problem := _offline_problem(links.shown(url), offline=offline):
            return tuple(args), problem
    return tuple(args), None


def _wanted(args: Sequence[Arg], flag: str, url: str, root: Path) -> tuple[Link, ...]:
    """The files of an address. `--model` says where the operator wants a model to be kept."""
    own = value_of(args, "--model") if flag == "--model-url" else None
    return links.links(root, url, Path(own) if own else None)


def _offline_problem(what: str, *, offline: bool) -> str | None:
    return f"{what} is not here, and --offline forbids to download it" if offline else None
