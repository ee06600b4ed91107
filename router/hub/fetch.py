"""Downloading resolved files into the Hugging Face cache.

The one idea: parts stay on disk, so a download that was cut off goes on from there, and files become visible only when
all of them are whole. Several processes may fetch the same file; one transfers it, the others wait. Called by the pool
for missing models, by `llama-router pull`, and at the start for a preset on the hub.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from router import threads
from router.errors import RouterError, UpstreamFailed
from router.hub import snapshots
from router.hub.layout import blob_path, file_size, lock_path, partial_path
from router.hub.names import Name
from router.hub.progress import DownloadProgress
from router.hub.repo import PRESET, File, Resolved
from router.hub.resolve import is_offline, list_repository, mib, url_of
from router.hub.transfer_process import transfer
from router.redaction import without_credentials

MAX_PRESET_BYTES = 1 << 20


async def fetch(
    resolved: Resolved, root: Path, on_progress: Callable[[DownloadProgress], object], *, token: str | None = None
) -> None:
    """Download the files that are missing, then make all of them visible in the cache at once.

    Other calls for the same file, in any process, wait for this transfer. If it is cancelled or fails, parts stay, from
    which the next call goes on. `on_progress` is called in the event loop: for each file at the start, then at most
    five times a second, and once at its end.

    Raises what `resolve` does, UpstreamFailed for a file that arrived damaged, RouterError if the cache cannot be
    written.
    """
    files = {url_of(os.environ, resolved, file): file for file in resolved.all_files}

    def report(url: str, done: int) -> None:
        file = files[url]
        size = file.size or (done if file_size(blob_path(root, resolved.listing.repo, file.oid)) == done else 0)
        on_progress(DownloadProgress(without_credentials(url), done, size, file.oid, file.path.as_posix()))

    present = await threads.CACHE.run(
        lambda: {url: snapshots.present_bytes(root, resolved.listing, file) for url, file in files.items()}
    )
    for url in files:
        report(url, present[url])
    missing = await threads.CACHE.run(
        lambda: {url: file for url, file in files.items() if not snapshots.is_whole(root, resolved.listing, file)}
    )
    if missing:
        blobs = [_blob(root, resolved, url, file) for url, file in missing.items()]
        request = {"op": "get", "repo": resolved.listing.repo, "files": blobs}
        await transfer(request, token, lambda message: report(message["url"], message["done"]))
    try:
        await threads.CACHE.run(snapshots.place, root, resolved)
    except OSError as error:
        if missing:  # else the cache may be read-only, and all files are there
            raise RouterError(f"{root} cannot be written ({error.strerror}: {error.filename})") from error


async def preset(name: Name, root: Path, *, token: str | None = None, offline: bool = False) -> Path | None:
    """The preset file of a repository, downloaded into the cache; None if the repository has none.

    The file in the cache is taken when offline, and when the hub does not answer. Raises what `fetch` does.
    """
    cached = await threads.CACHE.run(snapshots.preset, root, name)
    if offline or is_offline(os.environ):
        return cached
    try:
        listing = await list_repository(name, token)
    except RouterError:
        if cached:
            return cached
        raise
    file = listing.preset
    if file is None:
        return None
    if file.size > MAX_PRESET_BYTES:
        raise UpstreamFailed(f"{PRESET} of {name.repo} is no preset file: it is larger than {mib(MAX_PRESET_BYTES)}")
    await fetch(Resolved(listing, name.repo, None, (file,)), root, lambda progress: None, token=token)
    return await threads.CACHE.run(snapshots.preset, root, name)


def _blob(root: Path, resolved: Resolved, url: str, file: File) -> dict[str, Any]:
    """What the child needs to know of a file: `transfer.download.Blob`."""
    repo = resolved.listing.repo
    blob, lock = blob_path(root.absolute(), repo, file.oid), lock_path(root.absolute(), repo, file.oid)
    return {
        "url": url,
        "size": file.size,
        "oid": file.oid,
        "blob": str(blob),
        "part": str(partial_path(blob)),
        "lock": str(lock),
    }
