"""Sockets that a service manager passes are used, all of them, and nobody else gets them. B-P12"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from router.server.activation import Activation
from tests.activator import Activator
from tests.routers import FAKE, chat
from tests.waiting import PATIENCE_S


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    found: list[socket.socket] = []
    yield found
    for sock in found:
        sock.close()


def flags(folder: Path, models: Path) -> list[str]:
    return ["--engine", FAKE, "--models-dir", str(models), "--run-dir", str(folder / "run")]


def test_every_kind_of_socket_is_served(  # B-P12
    sockets: list[socket.socket], tiny_models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.sock"
    sockets.append(socket.create_server(("127.0.0.1", 0)))
    urls = [f"http://127.0.0.1:{sockets[0].getsockname()[1]}"]
    if socket.has_ipv6:
        sockets.append(socket.create_server(("::1", 0), family=socket.AF_INET6))
        urls.append(f"http://[::1]:{sockets[-1].getsockname()[1]}")
    for name in (str(path), "\0" + tmp_path.name + str(sockets[0].getsockname()[1])):
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(name)
        sockets[-1].listen()
    # --host is not used: nobody could listen there.
    with Activator(
        sockets, *flags(tmp_path, tiny_models), "--host", "192.0.2.1", log=tmp_path / "log", LISTEN_FDNAMES="a:b:c"
    ) as activator:
        process = activator.start()
        for url in urls:
            assert url in activator.log
            assert httpx.get(f"{url}/readyz").status_code == 200
        assert f"unix:{path}, unix:@{tmp_path.name}" in activator.log
        for name in (str(path), sockets[-1].getsockname().decode()):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE_S)
                client.connect(name)
                client.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert client.recv(99).startswith(b"HTTP/1.1 200")
        assert httpx.post(f"{urls[0]}/v1/chat/completions", json=chat("tiny-a"), timeout=PATIENCE_S).status_code == 200
        ours = {link for link in links(process.pid) if link in {f"socket:[{inode(sock)}]" for sock in sockets}}
        assert len(ours) == len(sockets)
        (child,) = [one for one in psutil.Process(process.pid).children() if "--alias" in one.cmdline()]
        assert not [name for name in child.environ() if name.startswith("LISTEN_")]
        assert not set(links(child.pid)) & ours
        assert activator.stop() == 0
    assert path.exists(), "it is the service manager's"


def links(pid: int) -> list[str]:
    return [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]


def inode(sock: socket.socket) -> int:
    return Path(f"/proc/self/fd/{sock.fileno()}").stat().st_ino


def test_sockets_for_another_process_are_not_used(  # B-P12
    sockets: list[socket.socket], tiny_models: Path, tmp_path: Path
) -> None:
    sockets.append(socket.create_server(("127.0.0.1", 0)))
    with Activator(
        sockets, *flags(tmp_path, tiny_models), "--port", "0", log=tmp_path / "log", LISTEN_PID="1"
    ) as activator:
        activator.start()
        assert "LISTEN_FDS is for process 1, and this is" in activator.log
        assert f":{sockets[0].getsockname()[1]}" not in activator.log
        assert activator.stop() == 0


def datagram() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def deaf() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.mark.parametrize(
    ("make", "count", "sentence"),
    [
        (datagram, "1", "is no TCP or unix stream socket: use ListenStream="),
        (deaf, "1", "does not listen: leave Accept= out"),
        (None, "1", "is no socket: use ListenStream="),
        (None, "two", "LISTEN_FDS=two is no number"),
        (deaf, "99999999999999999999", "does not listen"),
    ],
)
def test_what_cannot_be_used_is_told(  # B-P12
    sockets: list[socket.socket], tmp_path: Path, tiny_models: Path, make: object, count: str, sentence: str
) -> None:
    if callable(make):
        sockets.append(make())
        given = sockets[0]
    else:
        given = (tmp_path / "file").open("w")  # type: ignore[assignment]
    with Activator(
        [given], *flags(tmp_path, tiny_models), "--port", "0", log=tmp_path / "log", LISTEN_FDS=count
    ) as activator:
        assert activator.launch().wait(PATIENCE_S) == 2
        assert sentence in activator.log
        assert activator.log.count("\n") == 1
    given.close()


def test_the_variables_are_taken_whatever_they_say() -> None:  # B-P12
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "x", "LISTEN_FDNAMES": "http", "LISTEN_PIDFDID": "7", "OTHER": "1"}
    assert Activation.take(environ) == Activation("1", "x", ("http",))
    assert environ == {"OTHER": "1"}
    assert Activation.take(environ).sockets() == []
