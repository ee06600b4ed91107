from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.proxy.rig import Front, Leases
from tests.sockets import Server


@pytest.fixture
def child(tmp_path: Path) -> Server:
    return Server(tmp_path / "child.sock")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    front = Front(tmp_path_factory.mktemp("front") / "sock")
    front.start()
    yield front
    front.stop()


@pytest.fixture
async def front(server: Front, child: Server, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Front]:
    """Checks at the end that every lease was released, however the request ended. B-S2"""
    server.leases, server.keepalive, server.time_limit = Leases(child.address), 0.0, None
    yield server
    await server.part()
    assert server.leases.granted == server.leases.released
    records = caplog.get_records("call") + caplog.get_records("teardown")
    assert not [record for record in records if record.exc_info], "a traceback was logged"
