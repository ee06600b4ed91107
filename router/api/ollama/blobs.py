"""Files that Ollama's clients send before they make a model of them (`POST /api/blobs/sha256:...`).

They lie in a private folder, under the hash of their content, which is checked. Their number and size are bounded, the
disk keeps some room, and a file of which no model was made within an hour goes when the next one comes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path

from router import threads
from router.errors import InsufficientDisk, InvalidRequest, QueueFull, Unsupported
from router.models.created import CreatedStore, file_name, is_digest
from router.units import size

log = logging.getLogger("router.blobs")

MAX_BLOBS = 64
MAX_BYTES = 1 << 40  # of all files together
SPARE_BYTES = 1 << 30  # that stay free on the disk
MAX_UPLOADS = 2  # at once
WRITE_BYTES = 4 << 20  # that are written at a time
UNUSED_S = 3600.0
_PARTIAL = ".part"


class Blobs:
    """The files of the names in `created`."""

    def __init__(self, created: CreatedStore) -> None:
        self._created = created
        self._uploads = 0

    def __repr__(self) -> str:
        return f"<Blobs in {self._created.folder}, {self._uploads} uploads>"

    def path(self, digest: str) -> Path:
        """Where the file is, or would be. Raises InvalidRequest for no digest, Unsupported without a folder."""
        folder = self._created.folder
        if folder is None:
            raise Unsupported("Files cannot be sent to this router: it has no folder for them.")
        hexadecimal = digest.removeprefix("sha256:").removeprefix("sha256-").lower()
        if not is_digest(hexadecimal):
            raise InvalidRequest("A digest is sha256: and 64 hexadecimal digits.")
        return folder / file_name(hexadecimal)

    async def has(self, digest: str) -> bool:
        """Raises InvalidRequest, Unsupported."""
        return await threads.RECORDS.run(self.path(digest).is_file)

    async def receive(self, digest: str, chunks: AsyncIterator[bytes], length: int | None) -> None:
        """Keep a file. `length` is its size if the client says it. Raises InvalidRequest for a wrong digest,
        InsufficientDisk and QueueFull."""
        path = self.path(digest)
        if self._uploads >= MAX_UPLOADS:
            raise QueueFull(f"{MAX_UPLOADS} files are being sent already; try again when one is here.", retry_after=5.0)
        self._uploads += 1
        try:
            await threads.RECORDS.run(self._make_room, path.parent, length or 0)
            upload = await threads.RECORDS.run(_Upload, path)
            try:
                await _write_all(upload, chunks, lambda more: self._check_room(path.parent, more))
                await threads.RECORDS.run(upload.finish)
            finally:
                await threads.RECORDS.run(upload.close)
        finally:
            self._uploads -= 1

    async def remove(self, digests: Sequence[str]) -> None:
        """Delete these files, except those of which other models are made."""
        if digests:
            await threads.RECORDS.run(self._remove, {file_name(digest) for digest in digests}, 0.0)

    def _remove(self, names: Collection[str] | None, age: float) -> None:
        """Delete the files of these names, or all, if no model is made of them and they are old enough, in seconds.
        Blocks."""
        folder, used = self._created.folder, {file_name(digest) for digest in self._created.used_digests()}
        for path in _files(folder) if folder else ():
            if path.name in used or not (names is None or path.name in names):
                continue
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime >= age:
                    path.unlink()
                    log.info("%s is used by no model and was removed", path.name)

    def _make_room(self, folder: Path, more: int) -> None:
        """Blocks. Raises InsufficientDisk."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._remove(None, UNUSED_S)
        if len(_files(folder)) >= MAX_BLOBS:
            raise InsufficientDisk(f"There are {MAX_BLOBS} files already; delete a model that was made of one.")
        self._check_room(folder, more)

    def _check_room(self, folder: Path, more: int) -> None:
        """Blocks. Raises InsufficientDisk."""
        free = shutil.disk_usage(folder).free
        held = sum(path.stat().st_size for path in _files(folder))
        if more > free - SPARE_BYTES or held + more > MAX_BYTES:
            raise InsufficientDisk(
                f"There is no room for {size(more)}: {size(free)} are free, of which {size(SPARE_BYTES)} stay free, "
                f"and {size(held)} of {size(MAX_BYTES)} are taken by files of other models."
            )


class _Upload:
    """A file that arrives. Blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
        self._file = io.FileIO(os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
        self._hash = hashlib.sha256()

    def __repr__(self) -> str:
        return f"<_Upload to {self._path}>"

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def finish(self) -> None:
        """Raises InvalidRequest."""
        found = self._hash.hexdigest()
        if file_name(found) != self._path.name:
            raise InvalidRequest(f"The file's digest is sha256:{found}, not the one in the path; send it again.")
        os.fsync(self._file.fileno())
        self._partial.replace(self._path)

    def close(self) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)


async def _write_all(upload: _Upload, chunks: AsyncIterator[bytes], check_room: Callable[[int], None]) -> None:
    parts: list[bytes] = []
    async for chunk in chunks:
        parts.append(chunk)
        if sum(map(len, parts)) >= WRITE_BYTES:
            data, parts = b"".join(parts), []
            await threads.RECORDS.run(check_room, len(data))
            await threads.RECORDS.run(upload.write, data)
    await threads.RECORDS.run(upload.write, b"".join(parts))


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_file()]
    except FileNotFoundError:
        return []
