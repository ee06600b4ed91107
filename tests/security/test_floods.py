"""A client without a key costs little memory and delays no other client, whatever it sends."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.routers import Router
from tests.security.floods import (
    FLOODS,
    HEAD,
    KEY,
    MIB,
    TIMEOUT,
    closed_after,
    connect,
    is_served,
    leavers,
    router,
    silent,
    watched,
)
from tests.waiting import until

GROWN = 64 * MIB  # above idle, at most
ANSWERS = {
    "39 MiB of pipelined requests": b"HTTP/1.1 401",
    "81 MiB of head": b"HTTP/1.1 431",
    "one header of 64 MiB": b"HTTP/1.1 431",
    "64 MiB of trailers": b"HTTP/1.1 40",
    "50 MiB of a body without a key": b"HTTP/1.1 401",
    "80 MiB of a body above the limit": b"HTTP/1.1 413",
    "2,500 clients that leave": b"",
}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, fake: str) -> Iterator[Router]:
    started = router(tmp_path_factory.mktemp("floods"), fake)
    yield started
    started.stop()


@pytest.mark.parametrize("name", FLOODS)
def test_flood_costs_little_memory_and_time(one: Router, name: str) -> None:  # B-T4
    with watched(one) as cost:
        cost.answer = FLOODS[name](one)
    assert cost.answer.startswith(ANSWERS[name])
    assert cost.grown < GROWN, str(cost)
    assert cost.kept < GROWN, str(cost)
    assert max(cost.waits) < 5.0, str(cost)  # on an idle machine it is 0.1 s
    assert "a defect" not in one.log


def test_disconnects_leave_nothing_behind(one: Router) -> None:  # B-T4
    process = psutil.Process(one.process.pid)
    leavers(one, 50)
    until(lambda: not process.net_connections("tcp")[1:])
    before = process.num_fds()
    leavers(one, 500)
    until(lambda: not process.net_connections("tcp")[1:])
    until(lambda: process.num_fds() <= before + 8)  # some connections to the child are kept
    answer = one.client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"})
    waiting = [line for line in answer.text.splitlines() if not line.startswith("#") and "requests_active" in line]
    assert all(float(line.split()[-1]) == 0 for line in waiting), waiting


@pytest.mark.parametrize("begin", [b"", HEAD[:9], HEAD, HEAD + b"Content-Length: 99\r\nAuthorization: secret\r\n\r\n{"])
def test_silent_client_is_disconnected(one: Router, begin: bytes) -> None:  # B-T4
    with connect(one) as connection:
        connection.sendall(begin)
        assert closed_after(connection, TIMEOUT + 20) is not None


@pytest.mark.parametrize("begin", [HEAD, HEAD + b"Content-Length: 9999\r\nAuthorization: secret\r\n\r\n"])
def test_slow_client_is_disconnected(one: Router, begin: bytes) -> None:  # B-T4
    end = time.monotonic() + TIMEOUT + 20
    with connect(one) as connection:
        connection.sendall(begin)
        connection.settimeout(0.2)
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                try:
                    if connection.recv(65536):
                        return  # 408, or the end of the connection
                    return
                except ConnectionError:
                    return
            with contextlib.suppress(OSError):
                connection.sendall(b"x")
    pytest.fail("a byte now and then keeps a connection for ever")


def test_silent_connections_do_not_lock_others_out(tmp_path: Path, fake: str) -> None:  # B-T4
    limited = router(tmp_path, fake, files=256)
    opened: list[socket.socket] = []
    try:
        _, opened = silent(limited, 300)
        assert is_served(limited, 10.0)
    finally:
        for each in opened:
            each.close()
        limited.stop()
