"""Downloads from a hub on loopback, with the real client, real processes and real files."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from router.hub import cache as hub
from router.hub.fetch import fetch
from router.hub.names import Name
from router.hub.progress import DownloadProgress
from router.hub.repo import Resolved
from router.hub.resolve import resolve
from tests.hub_server import HubServer, Repo, RepoFile
from tests.processes import transfers

SIZE = 3 << 20
DATA = random.Random(0).randbytes(SIZE)
MODEL = "user/m/m-Q8_0.gguf"
Serve = Callable[[dict[str, Repo]], HubServer]


def one_model(**changes: object) -> dict[str, Repo]:
    """The hub of most tests; `changes` are fields of its only file."""
    return {"user/m": Repo({"m-Q8_0.gguf": RepoFile(DATA, **changes)})}  # type: ignore[arg-type]


async def pull(name: str, root: Path) -> list[DownloadProgress]:
    """Download a model; all reports of its progress."""
    reports: list[DownloadProgress] = []
    await fetch(await resolve(Name.parse(name), root), root, reports.append)
    return reports


def content(root: Path, name: str = "user/m:Q8_0") -> bytes:
    entry = hub.find(root, name)
    assert entry
    return b"".join(file.read_bytes() for file in entry.files)


def is_empty(folder: Path) -> bool:
    return list(folder.iterdir()) == []


def blobs(root: Path) -> list[str]:
    """What lies in the folders of blobs: `blob` for a whole one, `incomplete` for a part."""
    return sorted(path.name.partition(".")[2] or "blob" for path in root.glob("models--*/blobs/*"))


@asynccontextmanager
async def stopped(serve: Serve, root: Path, at: int) -> AsyncIterator[tuple[HubServer, asyncio.Task[None], Resolved]]:
    """A transfer whose hub sends no more after so many bytes."""
    gate = threading.Event()
    server = serve(one_model(gate=gate, cut_at=at))
    resolved = await resolve(Name.parse("user/m"), root)
    task = asyncio.create_task(fetch(resolved, root, lambda progress: None))
    await asyncio.to_thread(server.wait_for, MODEL, at)
    yield server, task, resolved


def children() -> list[psutil.Process]:
    """The processes of transfers."""
    return transfers(os.getpid())
