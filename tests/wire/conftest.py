from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.wire.upstream import Upstream
from tests.sockets import Server
from tests.wire.rig import ended


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "s")


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream(read_timeout=20.0)
    yield upstream
    await ended(upstream)
