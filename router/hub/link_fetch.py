"""Downloading the files of addresses (see `links`), with the same child, checks and reports as files of the hub.

The one idea: a file grows beside its place under a name that holds its version, so a download goes on only with the
same file, and it takes its place when it is whole. The first file of a model goes last: where it is, the others are.
Called by the pool for models whose presets name addresses.
"""

from __future__ import annotations

import asyncio
import glob
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router import threads
from router.errors import HubUnavailable, InsufficientDisk, RouterError, UnknownModel, UpstreamFailed
from router.hub.layout import file_size
from router.hub.links import DOCKER, Link, Reference, docker_names, folder_of, shown
from router.hub.progress import DownloadProgress
from router.hub.resolve import DISK_RESERVE_BYTES, free_bytes, is_offline, mib
from router.hub.transfer_process import Message, transfer

HEADS_TIMEOUT_S = 120.0
MAX_LAYERS = 1000
VERSION_DIGITS = 16


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its server tells it. `size` is 0 if it is not told; `sha256` and `etag` are empty then.

    `kind` is `link`, or `layer` in a registry.
    """

    link: Link
    size: int = 0
    sha256: str = ""
    etag: str = ""
    kind: str = "link"

    @property
    def part(self) -> Path:
        """Where the file grows. Another version of the file has another place."""
        version = self.sha256 or (self.etag and f"{self.etag} {self.size}")
        digest = hashlib.sha256(version.encode(errors="replace")).hexdigest()[:VERSION_DIGITS] if version else "new"
        return self._beside(f"{digest}.incomplete")

    @property
    def whole(self) -> Path:
        """Where it waits for the model's other files."""
        return self._beside("whole")

    @property
    def present(self) -> int:
        """How many bytes are here; all of them only if the file is whole."""
        for path in (self.link.path, self.whole):
            if (found := file_size(path)) >= 0:
                return max(found, self.size)
        part = max(0, file_size(self.part)) if self.sha256 or self.etag else 0
        return min(part, self.size - 1) if self.size else part

    def _beside(self, ending: str) -> Path:
        return self.link.path.with_name(f".{self.link.path.name}.{ending}")

    def request(self) -> dict[str, Any]:
        """What the child needs to know: `transfer.download.Blob`."""
        return {
            "url": self.link.url,
            "size": self.size,
            "oid": self.sha256,
            "blob": str(self.whole),
            "part": str(self.part),
            "lock": str(self._beside("lock")),
            "kind": self.kind,
            "etag": self.etag,
            "place": str(self.link.path),
        }


async def remote_files(
    wanted: Sequence[Link], reference: Reference | None, root: Path, *, token: str | None, offline: bool
) -> list[RemoteFile]:
    """What the servers say of these addresses, or of a reference; they fit on the disk.

    Raises UnknownModel, Forbidden, InsufficientDisk, HubUnavailable, UpstreamFailed.
    """
    what = str(reference) if reference else shown(wanted[0].url)
    if offline or is_offline(os.environ):
        raise UnknownModel(f"{what} is not here, and --offline forbids to download it")
    request: Message = (
        {"op": "layers", "repo": what, "registry": reference.url, "version": reference.version}
        if reference
        else {"op": "heads", "repo": what, "urls": [link.url for link in wanted]}
    )
    messages: list[Message] = []
    try:
        async with asyncio.timeout(HEADS_TIMEOUT_S):
            await transfer(request, token, messages.append)
    except TimeoutError:
        raise HubUnavailable(
            f"{what}: the server did not answer within {HEADS_TIMEOUT_S:.0f} s: try again later",
            retry_after=HEADS_TIMEOUT_S,
        ) from None
    found = _layers(reference, root, messages) if reference else _heads(wanted, messages)
    await threads.CACHE.run(_check_disk, what, found)
    return found


async def fetch_files(
    found: Sequence[RemoteFile], on_progress: Callable[[DownloadProgress], object], *, token: str | None
) -> None:
    """Download the files that are missing, then have all of them take their places. See `fetch.fetch`."""
    by_url = {file.link.url: file for file in found}

    def report(url: str, done: int) -> None:
        file = by_url[url]
        size = file.size or (done if file_size(file.whole) == done else 0)
        on_progress(DownloadProgress(shown(url), done, size, file.sha256, file.link.path.name))

    present = await threads.CACHE.run(lambda: {file.link.url: file.present for file in found})
    for url, done in present.items():
        report(url, done)
    try:
        await threads.CACHE.run(_prepare, found)
        missing = [file for file in found if file_size(file.link.path) < 0]
        if missing:
            request = {"op": "get", "repo": shown(missing[0].link.url), "files": [file.request() for file in missing]}
            await transfer(request, token, lambda message: report(message["url"], message["done"]))
        await threads.CACHE.run(_place, found)
    except OSError as error:
        folder = found[0].link.path.parent
        raise RouterError(f"{folder} cannot be written ({error.strerror}: {error.filename})") from error


def _heads(wanted: Sequence[Link], messages: Sequence[Message]) -> list[RemoteFile]:
    match messages:
        case [{"heads": [*rows]}] if len(rows) == len(wanted):
            return [
                RemoteFile(link, int(row["size"] or 0), str(row["sha256"] or ""), str(row["etag"] or ""))
                for link, row in zip(wanted, rows, strict=True)
            ]
    raise UpstreamFailed(f"{shown(wanted[0].url)}: the server's answer makes no sense")


def _layers(reference: Reference, root: Path, messages: Sequence[Message]) -> list[RemoteFile]:
    match messages:
        case [{"layers": [*rows]}] if 0 < len(rows) <= MAX_LAYERS and any(row["kind"] == "model" for row in rows):
            folder = folder_of(root, f"{DOCKER}{reference}")
            names = list(docker_names(reference, [(row["kind"], row["name"]) for row in rows]))
            if len(set(names)) == len(rows):
                files = [
                    RemoteFile(
                        Link(f"{reference.url}/blobs/sha256:{row['sha256']}", folder / name),
                        int(row["size"]),
                        str(row["sha256"]),
                        kind="layer",
                    )
                    for row, name in zip(rows, names, strict=True)
                ]
                return sorted(files, key=lambda file: (file.link.path.name.startswith("mmproj-"), file.link.path))
    raise UnknownModel(f"{reference} holds no model that can be told: it needs layers of GGUF files")


def _check_disk(what: str, found: Sequence[RemoteFile]) -> None:
    """Raises InsufficientDisk."""
    folder = found[0].link.path.parent
    missing, free = sum(max(0, file.size - file.present) for file in found), free_bytes(folder)
    if missing and missing + DISK_RESERVE_BYTES > free:
        raise InsufficientDisk(
            f"{what} takes {mib(missing)} more, and {folder} has {mib(free)} free, of which {mib(DISK_RESERVE_BYTES)} "
            "must stay free: make room"
        )


def _prepare(found: Sequence[RemoteFile]) -> None:
    """Make the folders, and delete what is left of other versions of the files."""
    for file in found:
        path = file.link.path
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.incomplete"):
            if left != file.part:
                left.unlink(missing_ok=True)


def _place(found: Sequence[RemoteFile]) -> None:
    for file in reversed(found):
        try:
            file.whole.replace(file.link.path)
        except FileNotFoundError:
            if not file.link.path.exists():  # else another download has put it there
                raise
