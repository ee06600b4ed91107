"""From a name on the Hugging Face hub to its files in the cache.

All that speaks to the hub is done by a child (see `transfer`): what hangs can be killed, and neither the memory nor the
imports of huggingface_hub come into the process that serves. HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE and the variables of
proxies are heeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from router import errors, threads
from router.errors import HubUnavailable, InsufficientDisk, RouterError, UnknownModel, UpstreamFailed
from router.hub import cache as hub
from router.hub.repo import PRESET, File, Listing, Name, Resolved, choose, every
from router.redaction import without_credentials

log = logging.getLogger("router.fetch")

ENDPOINT = "https://huggingface.co"
RESERVE = 256 << 20  # bytes that stay free on the disk
LONGEST_LISTING = 60.0  # seconds
LARGEST_PRESET = 1 << 20  # bytes
SHOWN = 8  # models of a repository that an error names
PATH = re.compile(rf"{re.escape(PRESET)}|(?!.*(?:^|/)\.\.?(?:/|$))[^/\\\0-\x1f:][^\\\0-\x1f:]*\.gguf")
OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a file is in the cache, in bytes."""

    url: str
    file: File
    done: int

    @property
    def total(self) -> int:
        return self.file.size


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
    """The files that a name means, or a `file` of its repository, which fit on the disk of the cache; with the draft
    model for a kind of `drafting` (see `repo.DRAFTS`), if the repository has one.

    With `fallback`, the smallest quant of the repository that fits, if the one that was asked for does not. Offline
    it is what the cache has. Raises UnknownModel, Forbidden (a licence, a token), InsufficientDisk, HubUnavailable.
    """
    offline = offline or is_offline(os.environ)
    listing = await threads.CACHE.run(hub.listing, root, name) if offline else await _listing(name, token)
    if listing is None:
        raise UnknownModel(f"{name} is not in the cache {root}, and --offline forbids to download it")
    resolved = choose(listing, name.quant, file, drafting=drafting)
    if resolved is None:
        there = "the cache" if offline else f"{endpoint(os.environ)}/{name.repo}"
        raise UnknownModel(f"{there} has no model {name}; it has {_told(listing)}")
    return await threads.CACHE.run(_fitting, resolved, root, fallback)


async def fetch(
    resolved: Resolved, root: Path, on_progress: Callable[[Progress], object], *, token: str | None = None
) -> None:
    """Download what is missing and make it visible in the cache, all at once at the end.

    Whoever asks for the same file meanwhile, in any process, waits for this transfer. When cancelled, or when it
    fails, parts are left, from which the next one goes on. `on_progress` is called in the event loop, at most five
    times a second for each file, and once at its end. Raises what `resolve` does, UpstreamFailed for a file that
    arrived damaged, RouterError when the cache cannot be written.
    """
    files = {url_of(os.environ, resolved, file): file for file in resolved.wanted}
    held = await threads.CACHE.run(lambda: {url: hub.held(root, resolved.listing, file) for url, file in files.items()})
    for url, file in files.items():
        on_progress(Progress(url, file, held[url]))
    lacking = {url: file for url, file in files.items() if held[url] < file.size}
    if lacking:
        blobs = [_blob(root, resolved, url, file) for url, file in lacking.items()]
        request = {"op": "get", "repo": resolved.listing.repo, "files": blobs}
        await _ask(request, token, lambda told: on_progress(Progress(told["url"], files[told["url"]], told["done"])))
    try:
        await threads.CACHE.run(hub.place, root, resolved)
    except OSError as error:
        if lacking:  # else it is a cache that may only be read, and all is there
            raise RouterError(f"{root} cannot be written ({error.strerror}: {error.filename})") from error


async def preset(name: Name, root: Path, *, token: str | None = None, offline: bool = False) -> Path | None:
    """The preset file of a repository, which is in the cache then; None if it has none. Where the hub does not tell, or
    may not be asked, it is what the cache has. Raises what `fetch` does."""
    cached = await threads.CACHE.run(hub.preset, root, name)
    if offline or is_offline(os.environ):
        return cached
    try:
        listing = await _listing(name, token)
    except RouterError:
        if cached:
            return cached
        raise
    file = listing.preset
    if file is None:
        return None
    if file.size > LARGEST_PRESET:
        raise UpstreamFailed(f"{PRESET} of {name.repo} is no preset file: it is larger than {_mib(LARGEST_PRESET)}")
    await fetch(Resolved(listing, name.repo, None, (file,)), root, lambda told: None, token=token)
    return await threads.CACHE.run(hub.preset, root, name)


def is_offline(environ: Mapping[str, str]) -> bool:
    """As huggingface_hub reads it."""
    return environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def endpoint(environ: Mapping[str, str]) -> str:
    """As it is told: the credentials of one that has some are not for those who read it."""
    return without_credentials(_endpoint(environ))


def _endpoint(environ: Mapping[str, str]) -> str:
    return (environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def url_of(environ: Mapping[str, str], resolved: Resolved, file: File) -> str:
    listing = resolved.listing
    return f"{_endpoint(environ)}/{listing.repo}/resolve/{listing.commit}/{quote(file.path.as_posix())}"


def missing(resolved: Resolved, root: Path) -> int:
    """How many bytes of it are still to be downloaded. Blocks for some stats."""
    return sum(file.size - hub.held(root, resolved.listing, file) for file in resolved.wanted)


def _fitting(resolved: Resolved, root: Path, fallback: bool) -> Resolved:
    free = _free(root)
    others = every(resolved.listing) if fallback else []
    for one in (resolved, *(other for other in others if other.bytes < resolved.bytes)):
        if (lacking := missing(one, root)) == 0 or lacking + RESERVE <= free:
            if one is not resolved:
                log.warning("%s would not fit on the disk of %s: %s is taken instead", resolved.name, root, one.name)
            return one
    raise InsufficientDisk(
        f"{resolved.name} takes {_mib(missing(resolved, root))} more, and {root} has {_mib(free)} free, of which "
        f"{_mib(RESERVE)} must stay so: make room, or take a smaller quant of {_told(resolved.listing)}"
    )


def _free(root: Path) -> int:
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def _told(listing: Listing) -> str:
    """The models of a repository, the smallest first."""
    names = [f"{one.name} ({_mib(one.bytes)})" for one in every(listing)]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more or "no GGUF file"


async def _listing(name: Name, token: str | None) -> Listing:
    told: list[Mapping[str, Any]] = []
    try:
        async with asyncio.timeout(LONGEST_LISTING):
            await _ask({"op": "list", "repo": name.repo, "revision": name.revision}, token, told.append)
    except TimeoutError:
        raise HubUnavailable(
            f"{endpoint(os.environ)} did not tell in {LONGEST_LISTING:.0f} s what {name.repo} holds: try again later",
            retry_after=LONGEST_LISTING,
        ) from None
    match told:
        case [{"commit": str(commit), "files": [*rows]}] if hub.COMMIT.fullmatch(commit):
            files = [file for row in rows if (file := _file(row))]
            preset = next((file for file in files if file.path.name == PRESET), None)
            return Listing(
                name.repo, name.revision, commit, tuple(file for file in files if file is not preset), preset
            )
    raise UpstreamFailed(f"the hub's listing of {name.repo} makes no sense: check HF_ENDPOINT")


def _file(row: object) -> File | None:
    """None for what would not be safe, or possible, to store."""
    match row:
        case [str(path), int(size), str(oid)] if PATH.fullmatch(path) and OID.fullmatch(oid) and size >= 0:
            return File(PurePosixPath(path), size, oid)
    return None


def _blob(root: Path, resolved: Resolved, url: str, file: File) -> dict[str, Any]:
    blob = hub.blob_of(root.absolute(), resolved.listing.repo, file.oid)
    lock = hub.lock_of(root.absolute(), resolved.listing.repo, file.oid)
    part = hub.part_of(blob)
    return {"url": url, "size": file.size, "oid": file.oid, "blob": str(blob), "part": str(part), "lock": str(lock)}


async def _ask(request: Mapping[str, Any], token: str | None, hear: Callable[[Mapping[str, Any]], object]) -> None:
    """Let a child do it; `hear` gets its answers. It is gone when this returns, also when this is cancelled."""
    loop = asyncio.get_running_loop()
    answers: asyncio.Queue[bytes | int] = asyncio.Queue()
    child = _start(token)

    def tell(answer: bytes | int) -> None:
        loop.call_soon_threadsafe(answers.put_nowait, answer)

    threading.Thread(target=_converse, args=(child, request, tell), name=f"fetch-{child.pid}", daemon=True).start()
    answer: bytes | int = b""
    try:
        while isinstance(answer := await answers.get(), bytes):
            told = json.loads(answer)
            if "error" in told:
                raise getattr(errors, told["error"], RouterError)(told["message"], retry_after=told["retry_after"])
            hear(told)
        if answer:
            raise RouterError(
                f"the process that fetches {request['repo']} ended by itself (exit code {answer}): try again"
            )
    finally:
        child.kill()
        while isinstance(answer, bytes):
            answer = await answers.get()


def _converse(
    child: subprocess.Popen[bytes], request: Mapping[str, Any], tell: Callable[[bytes | int], object]
) -> None:
    """In a thread of its own: tell each whole line, and at last the exit code."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever wanted to know
        with contextlib.suppress(BrokenPipeError), child:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            for line in child.stdout:
                if line.endswith(b"\n"):
                    tell(line)
        tell(child.wait())


def _start(token: str | None) -> subprocess.Popen[bytes]:
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    env = os.environ | quiet | ({"HF_TOKEN": token} if token else {})
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "router.hub.transfer"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise RouterError(f"{sys.executable} cannot be started ({error.strerror})") from error
