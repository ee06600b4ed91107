"""Where the router listens: families, names with several addresses, shared ports; each through real sockets."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from router.errors import ConfigError
from router.server import listeners
from router.server.addresses import Address, distinct
from tests.conftest import Starter
from tests.routers import FAKE

V4, V6 = socket.AF_INET, socket.AF_INET6


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=V6):
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@contextlib.contextmanager
def bound(*hosts: str, port: int = 0, reuse_port: bool = False) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield listeners.bind(hosts, port, stack, reuse_port=reuse_port)


def connects(host: str, sockets: list[socket.socket]) -> bool:
    port = next(sock.getsockname()[1] for sock in sockets if sock.family in (V4, V6))
    try:
        socket.create_connection((host, port), 5).close()
    except OSError:
        return False
    return True


@needs_ipv6
@pytest.mark.parametrize(
    ("hosts", "reached"),
    [
        (("::",), {"127.0.0.1", "::1"}),
        (("[::]",), {"127.0.0.1", "::1"}),
        (("0.0.0.0",), {"127.0.0.1"}),
        (("::1",), {"::1"}),
        (("[::1]",), {"::1"}),
        (("127.0.0.1",), {"127.0.0.1"}),
        (("::", "0.0.0.0"), {"127.0.0.1", "::1"}),
        (("0.0.0.0", "::"), {"127.0.0.1", "::1"}),
        (("::1", "::"), {"127.0.0.1", "::1"}),
        (("0.0.0.0", "127.0.0.1"), {"127.0.0.1"}),
        (("127.0.0.1", "127.0.0.1", "::1"), {"127.0.0.1", "::1"}),
        (("127.0.0.2", "::"), {"::1"}),
        (("::ffff:127.0.0.1",), {"127.0.0.1"}),
    ],
)
def test_hosts_are_reached_on_their_families(hosts: tuple[str, ...], reached: set[str]) -> None:
    with bound(*hosts) as sockets:
        assert {host for host in ("127.0.0.1", "::1") if connects(host, sockets)} == reached
        assert len({sock.getsockname()[1] for sock in sockets}) == 1


def test_a_name_is_served_on_all_its_addresses() -> None:
    named = {place[0] for *_, place in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    with bound("localhost") as sockets:
        assert {sock.getsockname()[0] for sock in sockets} == named
        assert all(connects(str(host), sockets) for host in named)
    with bound("127.0.0.1", "localhost") as sockets:
        assert sockets[0].getsockname()[0] == "127.0.0.1"


def test_distinct_addresses() -> None:
    def address(host: str, family: socket.AddressFamily, place: str) -> Address:
        return Address(host, family, (place, 0) if family == V4 else (place, 0, 0, 0))

    both = [address("localhost", V6, "::1"), address("localhost", V4, "127.0.0.1")]
    assert distinct(both) == both == distinct([*both, *both])
    (one,) = distinct([address("::", V6, "::"), both[0]])
    assert (one.host, one.dual, one.at(5)) == ("::", True, ("::", 5, 0, 0))
    named = distinct([address("::", V6, "::"), *both])
    assert [(found.place[0], found.dual) for found in named] == [("::", False), ("127.0.0.1", False)]


def test_a_taken_port_is_an_error_and_nothing_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, contextlib.ExitStack() as stack:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port}: another program uses it"):
            listeners.bind(["127.0.0.2", "127.0.0.1"], port, stack)
        socket.create_server(("127.0.0.2", port)).close()


def test_a_free_port_is_free_on_every_host(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        with bound("127.0.0.1", "127.0.0.2", "127.0.0.3") as sockets:
            assert len({sock.getsockname()[1] for sock in sockets}) == 1
    assert not caplog.records


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="this system cannot share ports")
def test_a_port_is_shared_only_if_both_want_it() -> None:
    with bound("127.0.0.1", reuse_port=True) as sockets:
        port = sockets[0].getsockname()[1]
        with bound("127.0.0.1", port=port, reuse_port=True) as more:
            assert more[0].getsockname()[1] == port
        with pytest.raises(ConfigError, match="another program uses it"), bound("127.0.0.1", port=port):
            pass
    with bound("127.0.0.1") as sockets, pytest.raises(ConfigError, match="another program uses it"):
        listeners.bind(["127.0.0.1"], sockets[0].getsockname()[1], contextlib.ExitStack(), reuse_port=True)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "[::1", "a" * 70 + ".example", "1.2.3.4.5"])
def test_a_wrong_host_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match="check --host") as caught, bound("127.0.0.1", host):
        pass
    assert caught.value.message.startswith(f"Cannot listen on {host} port ")


# A machine without IPv6, without SO_REUSEPORT or without unix sockets, as the standard library shows it.
WITHOUT = {
    "ipv6": """
        import errno, socket
        real = socket.socket
        class Socket(real):
            def __init__(self, family=-1, *more, **options):
                if family == socket.AF_INET6:
                    raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
                super().__init__(family, *more, **options)
        socket.socket = Socket
    """,
    "reuse_port": "import socket\ndel socket.SO_REUSEPORT",
    "unix": "import socket\ndel socket.AF_UNIX",
}


def on_a_machine_without(what: str, *hosts: str, folder: Path, reuse_port: bool = False) -> str:
    """What is bound there, as families, or the error; and the log."""
    script = textwrap.dedent(WITHOUT[what]) + textwrap.dedent(f"""
        import contextlib, logging
        logging.basicConfig(format="%(message)s")
        from router.server import listeners
        with contextlib.ExitStack() as stack:
            try:
                print([sock.getsockname()[0] for sock in listeners.bind({hosts}, 0, stack, reuse_port={reuse_port})])
            except listeners.ConfigError as exc:
                print(exc.message)
    """)
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=True,
        cwd=folder.anchor,
        env={"PYTHONPATH": str(Path(listeners.__file__).parents[2])},
    ).stdout


def test_without_ipv6_all_is_all_of_ipv4(tmp_path: Path) -> None:
    told = on_a_machine_without("ipv6", "::", folder=tmp_path)
    assert "this machine has no IPv6: --host :: listens on 0.0.0.0" in told
    assert "['0.0.0.0']" in told
    assert "['127.0.0.1']" in on_a_machine_without("ipv6", "localhost", folder=tmp_path)
    assert "Cannot listen on ::1 port 0: Address family" in on_a_machine_without("ipv6", "::1", folder=tmp_path)


def test_what_a_system_lacks_is_said(tmp_path: Path) -> None:
    assert "--reuse-port: this system cannot" in on_a_machine_without(
        "reuse_port", "127.0.0.1", folder=tmp_path, reuse_port=True
    )
    assert "no unix sockets" in on_a_machine_without("unix", "/tmp/never.sock", folder=tmp_path)


def test_urls_and_what_others_can_reach() -> None:
    with bound("127.0.0.1") as sockets:
        port = sockets[0].getsockname()[1]
        assert listeners.url_of(sockets[0], "https", "/llm") == f"https://127.0.0.1:{port}/llm"
        assert not listeners.reachable_places(sockets)
    with bound("0.0.0.0") as sockets:
        assert listeners.reachable_places(sockets) == [f"0.0.0.0 port {sockets[0].getsockname()[1]}"]


def test_a_name_with_an_address_of_another_machine(caplog: pytest.LogCaptureFixture) -> None:
    """The part of a name that is not here is left out, with a warning; `distinct` and the rest are as for any host."""
    from router.server import addresses

    here = Address("both", V4, ("127.0.0.1", 0))
    elsewhere = Address("both", V4, ("192.0.2.1", 0))
    with caplog.at_level(logging.WARNING, "router.serve"):
        ((host, sock),) = addresses._listen([elsewhere, here], 0, False)
    sock.close()
    assert host == "both"
    assert "--host both is also 192.0.2.1, which is left out" in caplog.text


# B-T1
@needs_ipv6
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_names_are_checked_on_both_families(routers: Starter, tiny_models: Path, address: str) -> None:
    """Over `::` a connection of IPv4 has addresses such as ::ffff:127.0.0.1, which is loopback."""
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--host", "::")
    port = httpx.URL(router.url).port
    url = f"http://{f'[{address}]' if ':' in address else address}:{port}/v1/models"
    for host, status in (
        ("localhost", 200),
        (f"[::1]:{port}", 200),
        (f"[::ffff:127.0.0.1]:{port}", 200),
        (f"[::ffff:7f00:1]:{port}", 200),
        (f"127.0.0.1:{port}", 200),
        ("evil.example", 403),
        (f"evil.example:{port}", 403),
        ("[::1].evil.example", 403),
    ):
        assert httpx.get(url, headers={"host": host}).status_code == status, host
    page = {"origin": f"http://{address}.evil.example"}
    assert httpx.post(url.replace("/v1/models", "/models/load"), headers=page, json={}).status_code == 403
