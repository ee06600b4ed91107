"""Downloading files from the hub into blobs of the cache.

The one idea: a blob grows in a partial file beside it, with a running checksum. A download that was cut off goes on
behind the last byte that is there, and a blob takes its name only when size and checksum are right. `__main__` calls
`download`.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, hf_raise_for_status

from router.hub.transfer.failures import Damaged, retry_after
from router.hub.transfer.reports import PROGRESS_INTERVAL_S, ProgressReports

CONCURRENT_FILES = 4
CHUNK_BYTES = 1 << 20
MAX_RANGE_BYTES = 16 << 30  # some servers give no more than 50 GB for one request
MAX_ATTEMPTS = 6  # without a single byte more
FIRST_PAUSE_S = 0.25  # doubled with each attempt
MAX_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Blob:
    """A file to download.

    `oid` is its sha256 if it has 64 digits.
    `blob`, `part` and `lock` are paths: of the whole file, of the partial file, of the lock.
    """

    url: str
    size: int
    oid: str
    blob: str
    part: str
    lock: str


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
        if _size(blob.blob) != blob.size:
            is_resumed = _size(blob.part) > 0
            try:
                _complete(blob, reports)
            except Damaged:
                if not is_resumed:
                    raise
                _complete(blob, reports)  # perhaps the bytes of the earlier attempt were wrong
    reports.update(blob.size, is_last=True)


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
        self.done = 0
        while chunk := self._file.read(CHUNK_BYTES):
            self._hash.update(chunk)
            self.done += len(chunk)

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._hash.update(chunk)
        self.done += len(chunk)

    def check(self, blob: Blob) -> None:
        """Raises Damaged if size or checksum are wrong; else the bytes are on the disk when this returns."""
        digest = self._hash.hexdigest()
        if self.done != blob.size or (len(blob.oid) == len(digest) and digest != blob.oid):
            raise Damaged(
                f"{blob.url} arrived damaged ({self.done} bytes, sha256 {digest}; expected {blob.size} bytes, "
                f"{blob.oid}) and was thrown away: try again, and if that does not help, tell the repository's owner"
            )
        self._file.flush()
        os.fsync(self._file.fileno())


def _complete(blob: Blob, reports: ProgressReports) -> None:
    """Download the bytes that the partial file lacks, and make it the blob."""
    if _size(blob.part) > blob.size:
        os.unlink(blob.part)
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
    while part.done < blob.size:
        before = part.done
        try:
            _stream(part, blob, reports)
        except (httpx2.TransportError, HfHubHTTPError) as error:
            pause = _pause_s(error, failed)
            failed = 0 if part.done > before else failed + 1
            if pause is None or failed >= MAX_ATTEMPTS:
                raise
            time.sleep(pause)
        else:
            if part.done == before:
                return  # the hub has no more: the file is too short, and `check` will say so


def _stream(part: PartialFile, blob: Blob, reports: ProgressReports) -> None:
    """One request for the next bytes of the file."""
    begin, end = part.done, min(part.done + MAX_RANGE_BYTES, blob.size)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if begin or end < blob.size:
        headers["Range"] = f"bytes={begin}-{end - 1}"
    timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    with get_session().stream("GET", blob.url, headers=headers, timeout=timeout) as response:
        if response.status_code == httpx2.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return
        hf_raise_for_status(response)
        content_range = response.headers.get("Content-Range", "")
        if response.status_code != httpx2.codes.PARTIAL_CONTENT or not content_range.startswith(f"bytes {begin}-"):
            part.begin_again()  # the server ignores ranges
        for chunk in response.iter_bytes():
            part.write(chunk)
            reports.update(part.done)
            if part.done > blob.size:
                return


def _pause_s(error: Exception, failed: int) -> float | None:
    """How long to wait before the next attempt; None if another attempt would not help."""
    pause: float = FIRST_PAUSE_S * 2**failed * random.uniform(0.75, 1.25)
    if isinstance(error, HfHubHTTPError):
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
