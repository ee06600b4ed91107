"""A child of an engine that only shows its page, and is asked for every file of it.

llama-server serves its page from its own memory, so a page can only be had from one that runs. The child gets a tiny
model, no GPU, one thread, and nothing of the settings that are meant for models. It ends as soon as all files are here.
Called by `chat_page`, at most once for each build of an engine.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from router import threads
from router.node.interface import Child, Launch, Node
from router.page import names, tiny
from router.page.files import MAX_FILES, MAX_PACKED_BYTES, MAX_PAGE_BYTES, BadFile, PageFile, pack
from router.wire.request_head import RequestHead
from router.wire.upstream import Upstream

log = logging.getLogger("router.page")

NAME = "chat-page"  # what the child is called
ARGS = ("--ctx-size", "256", "--n-gpu-layers", "0", "--parallel", "1", "--threads", "1")
SILENCE_S = 10.0  # a child that sends nothing for this long hangs
MAX_REQUESTS = 2 * MAX_FILES  # some of the names that are found in scripts are no files


async def take(node: Node, engine: str = "") -> Mapping[str, PageFile]:
    """All files of the page of this engine, by name; empty if it has none. `engine` is as in `Launch`.

    Raises LoadFailed, UpstreamFailed, BadFile and OSError. A caller that is cancelled ends the child."""
    folder = Path(await threads.FILES.run(tempfile.mkdtemp, prefix="llama-router-page-"))
    child: Child | None = None
    upstream = Upstream(read_timeout=SILENCE_S)
    try:
        path = folder / "tiny.gguf"
        await threads.FILES.run(path.write_bytes, tiny.model())
        args = ("--model", str(path), *ARGS)
        child = await node.spawn(Launch(NAME, args, (), load_timeout=SILENCE_S, engine=engine, is_bare=True))
        await child.ready()
        return await _Visit(upstream, child).collect()
    finally:
        upstream.close()
        try:
            if child:
                await asyncio.shield(child.kill())
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # one small file


class _Visit:
    """Asks a child for its page: the well-known files first, then all that they name."""

    def __init__(self, upstream: Upstream, child: Child) -> None:
        self._upstream, self._child = upstream, child

    async def collect(self) -> Mapping[str, PageFile]:
        found: dict[str, PageFile] = {}
        line, known, size = deque(names.WELL_KNOWN), set(names.WELL_KNOWN), 0
        for _ in range(MAX_REQUESTS):
            if not line:
                break
            file = await self._fetch(line.popleft())
            if file is None:
                if not found:
                    return {}  # there is no index
                continue
            found[file.name] = file
            size += len(file.packed)
            if len(found) > MAX_FILES or size > MAX_PAGE_BYTES:
                raise BadFile("the page has too many files, or too large ones")
            for name in await threads.FILES.run(_named_in, file):
                if name not in known:
                    known.add(name)
                    line.append(name)
        return found

    async def _fetch(self, name: str) -> PageFile | None:
        """None if there is no such file."""
        target = "/" if name == names.INDEX else f"/{name}"
        head = RequestHead("GET", target.encode(), [(b"accept-encoding", b"gzip"), (b"accept", b"text/html, */*")])
        answer = await self._upstream.open(self._child.address, self._child.key, head)
        content = await answer.read_all(MAX_PACKED_BYTES)
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in answer.headers}
        if answer.status != 200 or not content or not _is_of_type(name, headers.get("content-type", "")):
            return None
        if headers.get("content-encoding", "") != "gzip":
            content = await threads.FILES.run(pack, content)
        return await threads.FILES.run(PageFile.make, name, content, headers)


def _is_of_type(name: str, said: str) -> bool:
    """A page is HTML and nothing else is: some servers answer any path, with JSON or with their index."""
    return name.endswith(".html") == said.startswith("text/html")


def _named_in(file: PageFile) -> list[str]:
    if names.ending_of(file.name) not in names.TEXTS:
        return []
    text = b"".join(file.unpacked()).decode("utf-8", errors="replace")
    return [*names.named_in(file.name, text)]
