"""From a name on the Hugging Face hub to the files that it means, before anything is downloaded.

The hub lists the repository (offline, the cache does), `repo` chooses among its files, and the disk must have room for
them. HF_TOKEN, HF_HUB_OFFLINE, the variables of `endpoint` and those of proxies have their effect. Called by the pool
before a download, by `llama-router pull`, and at the start for a preset on the hub.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from router import threads
from router.errors import HubUnavailable, InsufficientDisk, UnknownModel, UpstreamFailed
from router.hub import snapshots
from router.hub.endpoint import address, endpoint
from router.hub.layout import gguf_sizes, name_in_cache, snapshot_of
from router.hub.names import COMMIT, Name
from router.hub.repo import PRESET, File, Listing, Resolved, all_models, choose, first_shards
from router.hub.transfer_process import Message, transfer

log = logging.getLogger("router.fetch")

DISK_RESERVE_BYTES = 256 << 20  # that stay free on the disk
LISTING_TIMEOUT_S = 60.0
SHOWN_MODELS = 8  # of a repository, in an error
# Paths and content names that are safe to store.
SAFE_PATH = re.compile(rf"{re.escape(PRESET)}|(?!.*(?:^|/)\.\.?(?:/|$))[^/\\\0-\x1f:][^\\\0-\x1f:]*\.gguf")
SAFE_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


async def resolve(
    name: Name,
    root: Path,
    *,
    file: str | None = None,
    token: str | None = None,
    offline: bool = False,
    fallback: bool = False,
    drafting: str | None = None,
) -> Resolved:
    """The files that a name means, or the model of its repository whose first file is `file`; they fit on the disk.

    `root` is the cache's folder.
    `offline` takes what the cache has.
    `fallback` takes the smallest quant of the repository that fits, if the one that was requested does not.
    `drafting` is one of `repo.DRAFTS`: the draft model comes along, if the repository has one.

    Raises UnknownModel, Forbidden (a licence, a token), InsufficientDisk, HubUnavailable, UpstreamFailed.
    """
    offline = offline or is_offline(os.environ)
    listing = await threads.CACHE.run(_cached_listing, root, name) if offline else await list_repository(name, token)
    if listing is None:
        raise UnknownModel(f"{name} is not in the cache {root}, and --offline forbids to download it")
    beside = await threads.CACHE.run(_first_shards, root, replace(name, repo=listing.repo))
    resolved = choose(listing, name.quant, file, drafting=drafting, beside=beside)
    if resolved is None:
        place = "the cache" if offline else f"{endpoint(os.environ)}/{name.repo}"
        raise UnknownModel(f"{place} has no model {name}; it has {_model_list(listing)}")
    return await threads.CACHE.run(_fitting, resolved, root, fallback)


def _cached_listing(root: Path, name: Name) -> Listing | None:
    return snapshots.listing(root, name_in_cache(root, name))


def _first_shards(root: Path, name: Name) -> list[PurePosixPath]:
    """The models that the cache has of the name's repository."""
    snapshot = snapshot_of(root, name)
    return first_shards(path for path, _ in gguf_sizes(snapshot)) if snapshot else []


def is_offline(environ: Mapping[str, str]) -> bool:
    """As huggingface_hub reads it."""
    return environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def url_of(environ: Mapping[str, str], resolved: Resolved, file: File) -> str:
    """Where a file is on the hub; with the credentials of HF_ENDPOINT, if it has some."""
    listing = resolved.listing
    return f"{address(environ)}/{listing.repo}/resolve/{listing.commit}/{quote(file.path.as_posix())}"


async def list_repository(name: Name, token: str | None) -> Listing:
    """What the hub lists. Raises UnknownModel, Forbidden, HubUnavailable, and UpstreamFailed for a listing that makes
    no sense."""
    messages: list[Message] = []
    try:
        async with asyncio.timeout(LISTING_TIMEOUT_S):
            await transfer({"op": "list", "repo": name.repo, "revision": name.revision}, token, messages.append)
    except TimeoutError:
        raise HubUnavailable(
            f"{endpoint(os.environ)} did not list the files of {name.repo} within {LISTING_TIMEOUT_S:.0f} s: "
            "try again later",
            retry_after=LISTING_TIMEOUT_S,
        ) from None
    match messages:
        case [{"commit": str(commit), "repo": str(repo), "files": [*rows]}] if (
            COMMIT.fullmatch(commit) and repo.casefold() == name.repo.casefold()
        ):
            files = [file for row in rows if (file := _safe_file(row))]
            preset = next((file for file in files if file.path.name == PRESET), None)
            return Listing(repo, name.revision, commit, tuple(file for file in files if file is not preset), preset)
    raise UpstreamFailed(f"the hub's listing of {name.repo} makes no sense: check HF_ENDPOINT")


def _safe_file(row: object) -> File | None:
    """None for a file that would not be safe, or possible, to store."""
    match row:
        case [str(path), int(size), str(oid)] if SAFE_PATH.fullmatch(path) and SAFE_OID.fullmatch(oid) and size >= 0:
            return File(PurePosixPath(path), size, oid)
    return None


def _fitting(resolved: Resolved, root: Path, fallback: bool) -> Resolved:
    """The model, or with `fallback` a smaller one, for which the disk has room. Raises InsufficientDisk."""
    free = free_bytes(root)
    others = all_models(resolved.listing) if fallback else []
    for model in (resolved, *(other for other in others if other.bytes < resolved.bytes)):
        if (missing := snapshots.missing_bytes(root, model)) == 0 or missing + DISK_RESERVE_BYTES <= free:
            if model is not resolved:
                log.warning("%s would not fit on the disk of %s: %s is taken instead", resolved.name, root, model.name)
            return model
    raise InsufficientDisk(
        f"{resolved.name} takes {mib(snapshots.missing_bytes(root, resolved))} more, and {root} has {mib(free)} free, "
        f"of which {mib(DISK_RESERVE_BYTES)} must stay free: make room, or take a smaller quant of "
        f"{_model_list(resolved.listing)}"
    )


def free_bytes(root: Path) -> int:
    existing = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def _model_list(listing: Listing) -> str:
    """The models of a repository for a person, the smallest first."""
    names = [f"{model.name} ({mib(model.bytes)})" for model in all_models(listing)]
    more = f" and {len(names) - SHOWN_MODELS} more" if len(names) > SHOWN_MODELS else ""
    return ", ".join(names[:SHOWN_MODELS]) + more or "no GGUF file"
