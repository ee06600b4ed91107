"""A child program that speaks to the Hugging Face hub, so that no other process has to import huggingface_hub.

One request as a line of JSON on stdin, answers as lines of JSON on stdout, an error of `router.errors` as the last one.
The child ends when its stdin does. It may be killed at any time: what is there of a blob is a part that the next
transfer goes on with. (As of 2.4, huggingface_hub itself begins again each time, and checks no more than the size.)

::

    {"op": "list", "repo": R, "revision": V}                       -> {"commit": C, "files": [[path, size, oid], ...]}
    {"op": "get", "repo": R, "files": [{"url", "size", "oid", "blob", "part", "lock"}, ...]}
                                                                   -> {"url": U, "done": N} ...
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, hf_raise_for_status

from router.errors import Forbidden, HubUnavailable, InsufficientDisk, RouterError, UnknownModel, UpstreamFailed
from router.hub.repo import PRESET
from router.redaction import hider, secrets_of

AT_ONCE = 4  # files
CHUNK = 1 << 20
LONGEST_RANGE = 16 << 30  # some servers give no more than 50 GB for one request
ATTEMPTS = 6  # without a single byte more
FIRST_PAUSE = 0.25  # seconds, doubled with each attempt
LONGEST_PAUSE = 30.0
PROGRESS_INTERVAL = 0.2
RETRY_AFTER = 10.0
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_output = threading.Lock()


@dataclass(frozen=True, slots=True)
class Blob:
    """A file to get; `oid` is its sha256 if it has 64 digits."""

    url: str
    size: int
    oid: str
    blob: str
    part: str
    lock: str


def main() -> int:
    with open(0, "rb", closefd=False) as stdin:
        request = json.loads(stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if request["op"] == "list":
            tell(**listing(request["repo"], request["revision"]))
        else:
            get([Blob(**file) for file in request["files"]])
    except Exception as error:
        told = explain(error, request["repo"])
        hide = hider((*secrets_of(os.environ), *filter(None, [get_token()])))
        tell(error=type(told).__name__, message=hide(told.message), retry_after=told.retry_after)
        os._exit(1)  # other files are still on their way
    return 0


def tell(**message: Any) -> None:
    with _output:
        print(json.dumps(message), flush=True)


def listing(repo: str, revision: str) -> dict[str, Any]:
    """The GGUF files of a repository, and its preset file. A gated one lists them to all: there, one is asked for."""
    timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=timeout)
    files = [
        [file.rfilename, file.lfs.size if file.lfs else file.size, file.lfs.sha256 if file.lfs else file.blob_id]
        for file in info.siblings or ()
        if file.rfilename.endswith(".gguf") or file.rfilename == PRESET
    ]
    if info.gated and files:
        get_hf_file_metadata(hf_hub_url(repo, str(files[0][0]), revision=info.sha), timeout=timeout)
    return {"commit": info.sha, "files": files}


def get(blobs: list[Blob]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in threads.map(_get, blobs):
            pass


def _get(blob: Blob) -> None:
    meter = Meter(blob)
    for path in (blob.blob, blob.lock):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with _alone(blob, meter):
        if _size(blob.blob) != blob.size:
            is_resumed = _size(blob.part) > 0
            try:
                _pull(blob, meter)
            except Damaged:
                if not is_resumed:
                    raise
                _pull(blob, meter)  # it may be what was there before that was wrong
    meter.tell(blob.size, is_last=True)


class Meter:
    """Tells how much of a file is here, a few times a second."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._told = 0.0

    def tell(self, done: int, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if is_last or (now - self._told >= PROGRESS_INTERVAL and done < self._blob.size):
            self._told = now
            tell(url=self._blob.url, done=done)


class Damaged(UpstreamFailed):
    pass


class Part:
    """A blob that grows in its file, with the checksum of what is there."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.begin_again(file.seek(0, os.SEEK_END))

    def begin_again(self, kept: int = 0) -> None:
        self._file.truncate(kept)
        self._file.seek(0)
        self._hash = hashlib.sha256()
        self.done = 0
        while chunk := self._file.read(CHUNK):
            self._hash.update(chunk)
            self.done += len(chunk)

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._hash.update(chunk)
        self.done += len(chunk)

    def check(self, blob: Blob) -> None:
        digest = self._hash.hexdigest()
        if self.done != blob.size or (len(blob.oid) == len(digest) and digest != blob.oid):
            raise Damaged(
                f"{blob.url} arrived damaged ({self.done} bytes, sha256 {digest}; expected {blob.size} bytes, "
                f"{blob.oid}) and was thrown away: try again, and if that does not help, tell the repository's owner"
            )
        self._file.flush()
        os.fsync(self._file.fileno())


def _pull(blob: Blob, meter: Meter) -> None:
    if _size(blob.part) > blob.size:
        os.unlink(blob.part)
    try:
        with open(blob.part, "a+b", buffering=CHUNK) as file:
            part = Part(file)
            meter.tell(part.done)
            _fill(part, blob, meter)
            part.check(blob)
    except Damaged:
        os.unlink(blob.part)
        raise
    os.replace(blob.part, blob.blob)


def _fill(part: Part, blob: Blob, meter: Meter) -> None:
    """Asks for what is missing until it is there, or the hub has failed too often in a row."""
    failed = 0
    while part.done < blob.size:
        before = part.done
        try:
            _stream(part, blob, meter)
        except (httpx2.TransportError, HfHubHTTPError) as error:
            pause = _pause(error, failed)
            failed = 0 if part.done > before else failed + 1
            if pause is None or failed >= ATTEMPTS:
                raise
            time.sleep(pause)
        else:
            if part.done == before:
                return  # it has no more: too short, which the check will say


def _stream(part: Part, blob: Blob, meter: Meter) -> None:
    begin, end = part.done, min(part.done + LONGEST_RANGE, blob.size)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if begin or end < blob.size:
        headers["Range"] = f"bytes={begin}-{end - 1}"
    timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    with get_session().stream("GET", blob.url, headers=headers, timeout=timeout) as response:
        if response.status_code == httpx2.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return
        hf_raise_for_status(response)
        told = response.headers.get("Content-Range", "")
        if response.status_code != httpx2.codes.PARTIAL_CONTENT or not told.startswith(f"bytes {begin}-"):
            part.begin_again()  # the server knows no ranges
        for chunk in response.iter_bytes():
            part.write(chunk)
            meter.tell(part.done)
            if part.done > blob.size:
                return


def _pause(error: Exception, failed: int) -> float | None:
    """How long to wait before the next attempt; None when another one would not help."""
    pause: float = FIRST_PAUSE * 2**failed * random.uniform(0.75, 1.25)
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code != 429 and error.response.status_code < 500:
            return None
        pause = max(pause, _retry_after(error) or 0.0)
    return pause if pause <= LONGEST_PAUSE else None


def _retry_after(error: HfHubHTTPError) -> float | None:
    """Seconds, from the standard header or from the hub's own `"api";r=0;t=55`."""
    headers = error.response.headers
    told = re.fullmatch(r"\d+", headers.get("Retry-After", "")) or re.search(r"t=(\d+)", headers.get("RateLimit", ""))
    return float(told[told.lastindex or 0]) if told else None


def _alone(blob: Blob, meter: Meter) -> ExitStack:
    """The lock by which huggingface_hub has one process download a blob; the others see how far it is."""
    stack = ExitStack()
    while True:
        try:
            stack.enter_context(WeakFileLock(blob.lock, timeout=PROGRESS_INTERVAL))
            return stack
        except TimeoutError:
            meter.tell(max(0, _size(blob.part)))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def explain(error: Exception, repo: str) -> RouterError:
    """What went wrong as an error of the router."""
    page = f"{constants.ENDPOINT}/{repo}"
    match error:
        case Damaged():
            return UpstreamFailed(error.message)
        case GatedRepoError():
            return Forbidden(
                f"{repo} is gated: accept its licence at {page}, and set HF_TOKEN to a token of that account"
            )
        case RepositoryNotFoundError():
            return UnknownModel(f"there is no {page}, or it is private: check the name, or set HF_TOKEN to read it")
        case RevisionNotFoundError():
            return UnknownModel(f"{page} has no such revision: check what stands behind the @")
        case EntryNotFoundError():
            return UnknownModel(f"{page} has lost a file since it was listed: try again")
        case OfflineModeIsEnabled():
            return UnknownModel(f"{repo} is not in the cache, and HF_HUB_OFFLINE forbids to download it")
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return Forbidden(f"the hub does not let you read {page}: set HF_TOKEN to a token that may")
        case HfHubHTTPError() if error.response.status_code == 429 or error.response.status_code >= 500:
            return HubUnavailable(
                f"the hub answered {error.response.status_code} for {repo}: try again later",
                retry_after=_retry_after(error) or RETRY_AFTER,
            )
        case HfHubHTTPError():
            return UpstreamFailed(f"the hub answered {error.response.status_code} for {repo}, which nobody expected")
        case httpx2.HTTPError():
            return HubUnavailable(
                f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}: {error}): check the network, "
                "HF_ENDPOINT, and the proxy's variables",
                retry_after=RETRY_AFTER,
            )
        case OSError() if error.errno in FULL:
            return InsufficientDisk(f"the disk is full ({error.strerror}); what there is of {repo} is kept: make room")
        case OSError():
            return RouterError(
                f"{repo} cannot be stored ({error.strerror}: {error.filename}): check the cache's folder"
            )
    return RouterError(f"{repo} could not be fetched ({type(error).__name__}: {error})")


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
