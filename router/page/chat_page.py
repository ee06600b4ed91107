"""The chat page of this router: of the engine in use, or else of the embedded one.

The one idea: nobody waits for it but who wants to see it. It is looked for when the first browser comes: on disk, else
in a child of the engine (`source`), which takes about a second. Meanwhile all visitors wait for the same search, and a
search that failed is not repeated for a while, so that visitors without a key cannot keep the machine busy. Made by
`serve`; `api.home` asks it for files.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router import threads
from router.engine import engines
from router.engine.discovery import EMBEDDED, Engine
from router.errors import RouterError
from router.node.interface import Node
from router.page import names, shelf, source
from router.page.files import BadFile, PageFile
from router.page.shelf import Shelf

log = logging.getLogger("router.page")

PATIENCE_S = 30.0  # for one engine to show its page
FAILURE_LASTS_S = 60.0
BUILDS_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Origin:
    """An engine that may have a page. `choice` is as in `Launch.engine`: empty for the router's own."""

    choice: str
    engine: Engine

    def build(self) -> str:
        """The name of its page on the shelf. Blocks, and raises EngineError."""
        return shelf.folder_name(self.engine.version(), self.engine.identity())


def origins(engine: Engine) -> list[Origin]:
    """The engines to ask, in order. Some llama-servers are built without a page; the embedded engine has one."""
    found = [Origin("", engine)]
    if engine.kind != EMBEDDED and importlib.util.find_spec("xllamacpp"):
        found.append(Origin(EMBEDDED, engines.named(EMBEDDED)))
    return found


class ChatPage:
    """The page of the first of `origins` that has one. Example::

    page = ChatPage(node, origins(engine), Shelf(folder))
    files = await page.files()  # {} if no engine has a page
    """

    def __init__(self, node: Node, origins: Sequence[Origin], shelf: Shelf) -> None:
        self._node, self._origins, self._shelf = node, origins, shelf
        self._files: Mapping[str, PageFile] | None = None
        self._search: asyncio.Task[Mapping[str, PageFile]] | None = None
        self._builds: list[str] = []  # of the origins, when the page was found
        self._failed_until = 0.0
        self._has_warned = False

    def __repr__(self) -> str:
        state = "not looked for" if self._files is None else f"{len(self._files)} files"
        return f"<ChatPage {state}>"

    async def files(self) -> Mapping[str, PageFile]:
        """All files by name; empty if there is no page. It may take a moment the first time, and never raises."""
        if self._files is not None:
            return self._files
        if self._search is None:
            if time.monotonic() < self._failed_until:
                return {}
            self._search = asyncio.create_task(self._find())
        return await asyncio.shield(self._search)

    def may_have(self, name: str) -> bool:
        """Whether it has such a file; of a page that was not looked for yet, whether it could have."""
        return names.is_valid(name) if self._files is None else name in self._files

    async def newest(self) -> Mapping[str, PageFile]:
        """The same, but if an engine has been replaced meanwhile, its new page is looked for. For the index: a browser
        that gets it asks for the files that it names."""
        if self._files is not None and self._search is None:
            try:
                builds = await threads.ESTIMATES.run(self._names, timeout=BUILDS_TIMEOUT_S, what="the engine's program")
            except RouterError:
                builds = self._builds  # the program is gone, or its disk hangs: its page is still here
            if builds != self._builds:
                self._files = None
        return await self.files()

    def _names(self) -> list[str]:
        return [origin.build() for origin in self._origins[: len(self._builds)]]

    async def close(self) -> None:
        """A search that is under way ends, with its child."""
        if self._search:
            self._search.cancel()
            await asyncio.wait({self._search})

    async def _find(self) -> Mapping[str, PageFile]:
        has_failed = False
        builds: list[str] = []
        found: Mapping[str, PageFile] = {}
        try:
            for origin in self._origins:
                try:
                    builds.append(await threads.ESTIMATES.run(origin.build))
                    found = await self._of(origin, builds[-1])
                except (RouterError, BadFile, OSError, TimeoutError) as error:
                    has_failed = True
                    self._warn(f"the engine's chat page cannot be had: {_words(error)}")
                if found:
                    break
            if found or not has_failed:
                self._files, self._builds = found, builds
            return found
        finally:
            if self._files is None:
                self._failed_until = time.monotonic() + FAILURE_LASTS_S
            self._search = None

    async def _of(self, origin: Origin, build: str) -> Mapping[str, PageFile]:
        kept = await self._kept(build)
        if kept is not None:
            return kept
        async with asyncio.timeout(PATIENCE_S):
            page = await source.take(self._node, origin.choice)
        log.info("the chat page of %s: %d files", build, len(page))
        try:
            await threads.RECORDS.run(
                self._shelf.put, build, page, timeout=threads.DISK_TIMEOUT_S, what=f"the folder {self._shelf.folder}"
            )
        except (OSError, RouterError) as error:
            self._warn(f"the chat page is not kept in {self._shelf.folder}: {_words(error)}")
        return page

    async def _kept(self, build: str) -> Mapping[str, PageFile] | None:
        try:
            return await threads.RECORDS.run(
                self._shelf.get, build, timeout=threads.DISK_TIMEOUT_S, what=f"the folder {self._shelf.folder}"
            )
        except RouterError:
            return None  # the disk hangs: the page is asked for, and stays in memory

    def _warn(self, message: str) -> None:
        """Once: any visitor can make it happen again."""
        if not self._has_warned:
            self._has_warned = True
            log.warning("%s", message)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"its child did not answer within {PATIENCE_S:g} s"
    return getattr(error, "message", "") or getattr(error, "strerror", "") or str(error)
