"""Caches of the hub, as huggingface_hub leaves them."""

from __future__ import annotations

from pathlib import Path

from router.hub.cache import Cache, CacheEntry

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(root: Path, repo: str, *files: str, commit: str = COMMIT, ref: str = "main") -> Path:
    """A repository in the cache as huggingface_hub leaves it: links into `blobs`."""
    folder = root / f"models--{repo.replace('/', '--')}"
    (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / ref).write_text(commit)
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(files):
        blob = folder / "blobs" / f"{commit}-{number}"
        blob.write_bytes(bytes(100 + number))
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return folder


def scan(root: Path) -> tuple[CacheEntry, ...]:
    return Cache(root).entries()


def names(entries: tuple[CacheEntry, ...]) -> list[str]:
    return [entry.name for entry in entries]
