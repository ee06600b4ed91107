"""How far a download is: what `fetch` reports, and what the command line, the pool and the APIs show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How much of one file of a download is in the cache, in bytes.

    `url` is the file's address on the hub, without credentials.
    `total` is 0 as long as nobody knows it.
    `oid` names the file's content.
    `path` is the file's path in its repository.
    """

    url: str
    done: int
    total: int
    oid: str = ""
    path: str = ""
