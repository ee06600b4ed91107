"""Downloading files from the hub into blobs of the cache.

The one idea: a blob grows in a partial file beside it, with a running checksum. A download that was cut off goes on
behind the last byte that is there, and a blob takes its name only when size and checksum are right. `__main__` calls
`download`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, hf_raise_for_status

from router.hub.links import shown
from router.hub.transfer.failures import Damaged, retry_after
from router.hub.transfer.reports import PROGRESS_INTERVAL_S, ProgressReports
from router.hub.transfer.web import is_enough_room, web

CONCURRENT_FILES = 4
CHUNK_BYTES = 1 << 20
MAX_RANGE_BYTES = 16 << 30  # some servers give no more than 50 GB for one request
MAX_ATTEMPTS = 6  # without a single byte more
FIRST_PAUSE_S = 0.25  # doubled with each attempt
MAX_PAUSE_S = 30.0
MAGIC = b"GGUF"
LEAST_ROOM_BYTES = 256 << 20  # that a file of unknown size leaves on the disk
ROOM_INTERVAL_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    """A file to download.

    `size` is 0 if nobody told it.
    `oid` is its sha256 if it has 64 digits.
    `blob`, `part` and `lock` are paths: of the whole file, of the partial file, of the lock.
    `kind` is `hub`; or `link`, a file that some address names, or `layer`, one of a registry. Those two are GGUF files
    at least, and `place` is where another process may have put the file already.
    `etag` is the version of which the bytes have to be.
    """

    url: str
    size: int
    oid: str
    blob: str
    part: str
    lock: str
    kind: str = "hub"
    etag: str = ""
    place: str = ""


def download(blobs: list[Blob]) -> None:
    """Download the files, a few at once. Raises the first error."""
    with ThreadPoolExecutor(CONCURRENT_FILES) as threads:
        for _ in threads.map(_download_one, blobs):
            pass


def _download_one(blob: Blob) -> None:
    reports = ProgressReports(blob.url, blob.size)
    for path in (blob.blob, blob.lock):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with _locked(blob, reports):
        if not _is_whole(blob):
            is_resumed = _size(blob.part) > 0
            try:
                _complete(blob, reports)
            except Damaged:
                if not is_resumed:
                    raise
                _complete(blob, reports)  # perhaps the bytes of the earlier attempt were wrong
    reports.update(blob.size or max(_size(blob.blob), _size(blob.place)), is_last=True)


def _is_whole(blob: Blob) -> bool:
    sizes = [_size(path) for path in (blob.blob, blob.place) if path]
    return any(size == blob.size if blob.size else size >= 0 for size in sizes)


class PartialFile:
    """A blob that grows in its file, with the checksum of the bytes that are there."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.begin_again(file.seek(0, os.SEEK_END))

    def __repr__(self) -> str:
        return f"<PartialFile {self._file.name}: {self.done} bytes>"

    def begin_again(self, kept: int = 0) -> None:
        """Keep only the first bytes, and compute their checksum."""
        self._file.truncate(kept)
        self._file.seek(0)
        self._hash = hashlib.sha256()
        self.done, self._start = 0, b""
        while chunk := self._file.read(CHUNK_BYTES):
            self._note(chunk)

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._note(chunk)

    def _note(self, chunk: bytes) -> None:
        self._start += chunk[: len(MAGIC) - len(self._start)]
        self._hash.update(chunk)
        self.done += len(chunk)

    def check_start(self, blob: Blob) -> None:
        """Raises Damaged if the bytes are no GGUF file: a page that asks for a login, say."""
        if not MAGIC.startswith(self._start):
            raise Damaged(f"{shown(blob.url)} is no GGUF file (it begins with {self._start!r}): check the address")

    def check(self, blob: Blob) -> None:
        """Raises Damaged if size or checksum are wrong; else the bytes are on the disk when this returns."""
        digest = self._hash.hexdigest()
        is_short = self.done != blob.size if blob.size else self.done == 0
        if self._start != MAGIC and not is_short and blob.kind != "hub":
            raise Damaged(f"{shown(blob.url)} is no GGUF file (it has {self.done} bytes): check the address")
        if is_short or (len(blob.oid) == len(digest) and digest != blob.oid):
            raise Damaged(
                f"{shown(blob.url)} arrived damaged ({self.done} bytes, sha256 {digest}; expected "
                f"{blob.size or 'some'} bytes, {blob.oid or 'any'}) and was thrown away: try again, and if that does "
                "not help, tell its owner"
            )
        self._file.flush()
        os.fsync(self._file.fileno())


def _complete(blob: Blob, reports: ProgressReports) -> None:
    """Download the bytes that the partial file lacks, and make it the blob."""
    has_version = blob.kind == "hub" or blob.oid or blob.etag
    if _size(blob.part) >= 0 and ((blob.size and _size(blob.part) > blob.size) or not has_version):
        os.unlink(blob.part)  # nobody can tell whether the rest of the file would fit to it
    try:
        with open(blob.part, "a+b", buffering=CHUNK_BYTES) as file:
            part = PartialFile(file)
            reports.update(part.done)
            _fill(part, blob, reports)
            part.check(blob)
    except Damaged:
        os.unlink(blob.part)
        raise
    os.replace(blob.part, blob.blob)


def _fill(part: PartialFile, blob: Blob, reports: ProgressReports) -> None:
    """Request the missing bytes until they are there, or the hub has failed too often in a row."""
    failed = 0
    while part.done < blob.size or not blob.size:
        before = part.done
        try:
            _stream(part, blob, reports)
        except (httpx2.TransportError, HfHubHTTPError, httpx2.HTTPStatusError) as error:
            pause = _pause_s(error, failed)
            failed = 0 if part.done > before else failed + 1
            if pause is None or failed >= MAX_ATTEMPTS:
                raise
            time.sleep(pause)
        else:
            if part.done == before or not blob.size:
                return  # the hub has no more: the file is too short, and `check` will say so


def _stream(part: PartialFile, blob: Blob, reports: ProgressReports) -> None:
    """One request for the next bytes of the file."""
    begin, end = part.done, min(part.done + MAX_RANGE_BYTES, blob.size)
    headers = {}
    if begin or end < blob.size:
        headers["Range"] = f"bytes={begin}-{end - 1 if blob.size else ''}"
        if blob.etag.startswith('"'):
            headers["If-Range"] = blob.etag
    with _requested(blob, headers) as response:
        content_range = response.headers.get("Content-Range", "")
        is_beyond = response.status_code == httpx2.codes.REQUESTED_RANGE_NOT_SATISFIABLE
        if not is_beyond:
            _take(part, response, content_range, blob, reports)
    if is_beyond and begin and not blob.size and content_range != f"bytes */{begin}":
        part.begin_again()  # as far as anybody can tell, the bytes here are of another file
        _stream(part, blob, reports)


def _take(
    part: PartialFile, response: httpx2.Response, content_range: str, blob: Blob, reports: ProgressReports
) -> None:
    """The bytes of one answer."""
    if response.status_code != httpx2.codes.PARTIAL_CONTENT or not content_range.startswith(f"bytes {part.done}-"):
        part.begin_again()  # the server ignores ranges
    checked = part.done
    for chunk in response.iter_bytes():
        part.write(chunk)
        reports.update(part.done)
        if blob.size and part.done > blob.size:
            return
        if blob.kind != "hub":
            part.check_start(blob)
        if not blob.size and part.done - checked >= ROOM_INTERVAL_BYTES:
            checked = part.done
            _check_room(blob)


@contextmanager
def _requested(blob: Blob, headers: dict[str, str]) -> Iterator[httpx2.Response]:
    """The answer to a GET, which says that the bytes come, or that there are none at this place of the file."""
    if blob.kind != "hub":
        with web().stream("GET", blob.url, headers, is_registry=blob.kind == "layer") as response:
            yield response
        return
    headers = build_hf_headers() | {"Accept-Encoding": "identity"} | headers
    timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    with get_session().stream("GET", blob.url, headers=headers, timeout=timeout) as response:
        if response.status_code != httpx2.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            hf_raise_for_status(response)
        yield response


def _check_room(blob: Blob) -> None:
    """Raises OSError if a file whose size nobody told leaves too little of the disk."""
    if not is_enough_room(os.path.dirname(blob.part), LEAST_ROOM_BYTES):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), blob.part)


def _pause_s(error: Exception, failed: int) -> float | None:
    """How long to wait before the next attempt; None if another attempt would not help."""
    pause: float = FIRST_PAUSE_S * 2**failed * random.uniform(0.75, 1.25)
    if isinstance(error, HfHubHTTPError | httpx2.HTTPStatusError):
        if error.response.status_code != 429 and error.response.status_code < 500:
            return None
        pause = max(pause, retry_after(error) or 0.0)
    return pause if pause <= MAX_PAUSE_S else None


def _locked(blob: Blob, reports: ProgressReports) -> ExitStack:
    """The lock by which huggingface_hub has one process download a blob. The others report how far that one is."""
    stack = ExitStack()
    while True:
        try:
            stack.enter_context(WeakFileLock(blob.lock, timeout=PROGRESS_INTERVAL_S))
            return stack
        except TimeoutError:
            reports.update(max(0, _size(blob.part)))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
