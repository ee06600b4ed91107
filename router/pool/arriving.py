"""A model whose file arrives: its header is there long before its weights, and says whether the model will fit.

Called by `hub_models` beside each download of a model.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from router import threads
from router.errors import GgufError
from router.models import gguf
from router.models.spec import ModelSpec
from router.pool.download_source import CheckHeader

HEADER_INTERVAL_S = 0.2  # between two attempts to read the header of a file that arrives
FIRST_HEADER_BYTES = 1 << 20  # the first attempt; each later one waits for twice as many


@dataclass(frozen=True, slots=True)
class Arriving:
    """The first file of a model that is being downloaded.

    `paths` are where it may be: growing, and whole.
    `file_bytes` is the file's size, `model_bytes` that of the whole download; 0 if nobody told it.
    """

    paths: tuple[Path, ...]
    file_bytes: int
    model_bytes: int


async def check_arriving(spec: ModelSpec, arriving: Arriving, check_header: CheckHeader) -> None:
    """Read the header of the file that arrives, as soon as it is complete, and check the model with it."""
    least = FIRST_HEADER_BYTES
    while True:
        await asyncio.sleep(HEADER_INTERVAL_S)
        for path in arriving.paths:
            with contextlib.suppress(OSError, GgufError):
                size = path.stat().st_size
                if size >= (min(least, arriving.file_bytes) or least):
                    least *= 2
                    await threads.CACHE.run(gguf.read, path)
                    await check_header(replace(spec, model_path=path, size_bytes=arriving.model_bytes or size))
                    return
