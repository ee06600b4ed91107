"""Models that a preset names by an address: `model-url`, `mmproj-url` and `docker-repo`, and where they are kept.

The one idea: an address alone says in which folder its file is kept (`<cache>/links/HASH/NAME.gguf`), so the catalog
finds the file without the network. Only an operator names addresses, on the command line or in a preset: no request
can, and no preset from the hub. Called when the catalog is built; `link_fetch` downloads.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from router.hub import repo as repos
from router.hub.layout import gguf_sizes

FOLDER = "links"
KEY_DIGITS = 24  # of the hash that names a folder
MAX_FILE_NAME_CHARACTERS = 120
MAX_URL_CHARACTERS = 8192
DEFAULT_REGISTRY = "registry-1.docker.io"
REGISTRIES_OF_DOCKER_HUB = ("docker.io", "index.docker.io", "hub.docker.com", DEFAULT_REGISTRY)
DOCKER = "docker://"  # before a reference, where it stands among addresses
# Of Docker's reference syntax (distribution/reference) what models need. No part can be `..`.
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REGISTRY = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|\[::1\])(?::\d{1,5})?|[A-Za-z0-9-]+:\d{1,5}"
REFERENCE = re.compile(
    rf"(?:(?P<registry>{_REGISTRY})/)?(?P<repo>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]")


@dataclass(frozen=True, slots=True)
class Link:
    """A file at an address, and the path that is its own on disk."""

    url: str
    path: Path


@dataclass(frozen=True, slots=True)
class Reference:
    """A model in a registry of Docker: `ai/smollm2:360M-Q4_K_M`."""

    registry: str
    repo: str
    version: str  # a tag, or a digest

    @classmethod
    def parse(cls, text: str) -> Reference | None:
        """None for other text. As in llama.cpp, a name without an owner is one of `ai/`."""
        found = REFERENCE.fullmatch(text.strip().removeprefix(DOCKER)) if len(text) <= MAX_URL_CHARACTERS else None
        if found is None:
            return None
        registry = found["registry"] or DEFAULT_REGISTRY
        registry = DEFAULT_REGISTRY if registry.lower() in REGISTRIES_OF_DOCKER_HUB else registry
        repo = found["repo"] if "/" in found["repo"] or registry != DEFAULT_REGISTRY else f"ai/{found['repo']}"
        return cls(registry, repo, found["digest"] or found["tag"] or "latest")

    @property
    def url(self) -> str:
        """The address of the repository in the registry. As with Docker, loopback needs no TLS."""
        host = urlsplit(f"//{self.registry}").hostname or ""
        scheme = "http" if host == "localhost" or _is_loopback(host) else "https"
        return f"{scheme}://{self.registry}/v2/{self.repo}"

    def __str__(self) -> str:
        registry = "" if self.registry == DEFAULT_REGISTRY else f"{self.registry}/"
        return f"{registry}{self.repo}{'@' if ':' in self.version else ':'}{self.version}"


def fault(url: str) -> str | None:
    """What is wrong with an address, as the end of a sentence; None if it can be one of a file."""
    if len(url) > MAX_URL_CHARACTERS or not url.isprintable() or " " in url:
        return "is no address: it is too long, or holds blanks"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"is no address: {error}"
    if parts.scheme.lower() not in ("http", "https") or not host:
        return "is no address that can be downloaded: write https://HOST/PATH.gguf"
    return None if PurePosixPath(parts.path).name else "names no file: write https://HOST/PATH.gguf"


def shown(url: str) -> str:
    """The address for people: without credentials, and without the query, which may be a signature."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, _host(parts), parts.path, "", ""))


def file_name(url: str) -> str:
    """A name for the file of an address that is safe on every disk."""
    name = _UNSAFE.sub("_", unquote(PurePosixPath(urlsplit(url).path).name)).lstrip(".-") or "model"
    stem = name[: -len(".gguf")] if name.lower().endswith(".gguf") else name
    return f"{stem[-MAX_FILE_NAME_CHARACTERS:]}.gguf"


def folder_of(root: Path, address: str) -> Path:
    """Where the files of an address or of a reference are kept. A password in it does not count."""
    if address.startswith(DOCKER):
        key = str(Reference.parse(address) or address)
    else:
        parts = urlsplit(address)
        key = urlunsplit((parts.scheme.lower(), _host(parts).lower(), parts.path, parts.query, ""))
    return root / FOLDER / hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:KEY_DIGITS]


def is_file_of(file: Path, address: str) -> bool:
    """Whether a file lies in the folder of an address. Does not touch the disk."""
    folder = folder_of(Path(), address)
    return file.parent.name == folder.name and file.parent.parent.name == FOLDER


def links(root: Path, url: str, path: Path | None = None) -> tuple[Link, ...]:
    """The file of an address, or all shards if it is the first one of a split model.

    `path` is where the operator wants it to be kept. The address is sound (see `fault`).
    """
    parts = urlsplit(url)
    first = path or folder_of(root, url) / file_name(url)
    found = repos.SHARD.fullmatch(PurePosixPath(parts.path).name.removesuffix(".gguf"))
    own = repos.SHARD.fullmatch(first.name.removesuffix(".gguf"))
    if found is None or own is None or int(found["index"]) != 1 or found["count"] != own["count"]:
        return (Link(url, first),)
    return tuple(
        Link(
            parts._replace(path=f"{parts.path[: -len(_shard_name(found, 1))]}{_shard_name(found, number)}").geturl(),
            first.with_name(_shard_name(own, number)),
        )
        for number in range(1, int(found["count"]) + 1)
    )


def _shard_name(shard: re.Match[str], number: int) -> str:
    """The name of the shard with this number, of the same model."""
    return f"{shard['stem']}-{number:05d}-of-{shard['count']}.gguf"


def are_here(wanted: Sequence[Link]) -> bool:
    return all(os.path.isfile(link.path) for link in wanted)


def docker_files(root: Path, reference: Reference) -> tuple[Path, Path | None] | None:
    """The first shard of a model from a registry, and its projector; None if it is not here."""
    folder = folder_of(root, f"{DOCKER}{reference}")
    sizes = dict(gguf_sizes(folder))
    first = next((path for path in repos.first_shards(sizes) if repos.shards(path, sizes)), None)
    if first is None:
        return None
    mmproj = repos.projector(first, sizes)
    return folder / first, folder / mmproj if mmproj else None


def docker_names(reference: Reference, layers: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The file names for the layers of a model; each layer is its kind (`model` or `mmproj`) and the name it has in the
    registry, if any. Shards keep the numbers of their names."""
    stem = _UNSAFE.sub("_", f"{PurePosixPath(reference.repo).name}-{reference.version}")[:MAX_FILE_NAME_CHARACTERS]
    for kind, name in layers:
        shard = repos.SHARD.fullmatch(PurePosixPath(name).name.removesuffix(".gguf"))
        number = f"-{shard['index']}-of-{shard['count']}" if shard and kind == "model" else ""
        yield f"{'mmproj-' if kind == 'mmproj' else ''}{stem}{number}.gguf"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(parts: SplitResult) -> str:
    """Host and port, without credentials."""
    return parts.netloc.rpartition("@")[2]
