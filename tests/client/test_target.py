"""Which router a command means, and which key goes there. B-O6"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.client import options, target
from router.client.failures import NotReached
from router.client.session import Session
from router.client.target import Target
from router.errors import FlagError
from router.node.run_directory import RunDirectory
from router.node.whereabouts import FILE, Whereabouts, birth_of, find_all
from tests.client.stub import Reply, stub


class Machine:
    """A user's machine: files, and routers that run, each with a run folder. All are in this one process, so each has
    a root of its own if several are to be found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = folder / "x"
        self.runtime.mkdir(mode=0o700)
        self.runs: list[RunDirectory] = []

    def router(self, *urls: str, root: str = "", **facts: object) -> Whereabouts:
        made = Whereabouts(urls, **facts)  # type: ignore[arg-type]
        self.runs.append(RunDirectory.open(Path(root) if root else self.runtime / "llama-router"))
        made.publish(self.runs[-1])
        return made

    def belongs_to_another_process(self, number: int, pid: int | None = None) -> None:
        file = self.runs[number].folder / FILE
        pid = pid or os.getppid()
        file.write_text(json.dumps({**json.loads(file.read_text()), "pid": pid, "birth": birth_of(pid)}))

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def find(self, *argv: str, **environ: str) -> Target:
        own = {"XDG_RUNTIME_DIR": str(self.runtime), "TMPDIR": str(self.folder)}
        return target.find(options.read("ps", argv), {**own, **environ})


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr("router.node.run_roots.SHARED", ())  # of this machine
    machine = Machine(tmp_path)
    yield machine
    for run in machine.runs:
        run.close()


def test_without_anything_it_is_where_a_router_listens_by_default(machine: Machine) -> None:
    assert machine.find() == Target("http://127.0.0.1:8080")


def test_flags_say_it(machine: Machine) -> None:
    machine.router("http://127.0.0.1:9999")
    assert machine.find("--url", "https://box:8443/llm/").url == "https://box:8443/llm"
    assert machine.find("--url", "http://box", "--api-prefix", "/llm").url == "http://box/llm"
    assert machine.find("--port", "81", LLAMA_ARG_PORT="82").url == "http://127.0.0.1:81"
    assert machine.find("--host", "box", "--port", "81").url == "http://box:81"
    assert machine.find("--host", "0.0.0.0").url == "http://127.0.0.1:8080"
    assert machine.find("--host", "::").url == "http://127.0.0.1:8080"
    assert machine.find("--host", "fe80::1").url == "http://[fe80::1]:8080"
    found = machine.find("--host", "/run/r.sock", "--api-prefix", "/llm")
    assert (found.socket, found.url, str(found)) == ("/run/r.sock", "http://localhost/llm", "/run/r.sock")


def test_variables_of_the_router_say_it(machine: Machine) -> None:
    machine.router("http://127.0.0.1:9999", hosts=("127.0.0.1",))
    found = machine.find(
        LLAMA_ARG_HOST="box", LLAMA_ARG_PORT="81", LLAMA_ARG_API_PREFIX="/llm", LLAMA_API_KEY="one,two"
    )
    assert (found.url, found.key) == ("http://box:81/llm", "one")
    assert machine.find(LLAMA_ARG_PORT="81").url == "http://127.0.0.1:81"
    assert machine.find(LLAMA_ARG_PORT="9999").url == "http://127.0.0.1:9999"
    cert = machine.file("c.pem", "x")
    found = machine.find(LLAMA_ARG_PORT="81", LLAMA_ARG_SSL_CERT_FILE=cert)
    assert (found.url, found.certificate) == ("https://127.0.0.1:81", Path(cert))


def test_the_file_of_settings_says_it(machine: Machine) -> None:
    config = machine.file("router.ini", "port = 81\napi-key = s3cret\napi-prefix = /llm\nmodels-max = 2\n")
    for found in (machine.find("--config", config), machine.find(LLAMA_ROUTER_CONFIG=config)):
        assert (found.url, found.key) == ("http://127.0.0.1:81/llm", "s3cret")


def test_a_router_that_runs_here_is_found(machine: Machine) -> None:
    key, cert = machine.file("keys", "# mine\nsk-1\n"), machine.file("cert.pem", "x")
    machine.router(
        "https://0.0.0.0:8443", prefix="/llm", certificate=cert, key_files=(str(machine.folder / "gone"), key)
    )
    found = machine.find()
    assert found == Target("https://127.0.0.1:8443/llm", None, "sk-1", Path(cert))
    assert machine.find(LLAMA_API_KEY="mine").key == "mine"
    # Whom to trust can be said, and the address still comes from the folder.
    found = machine.find("--insecure")
    assert (found.url, found.certificate, found.is_checked) == ("https://127.0.0.1:8443/llm", None, False)
    found = machine.find("--cacert", cert)
    assert (found.certificate, found.authorities) == (None, Path(cert))


@pytest.mark.parametrize(
    ("urls", "url", "socket"),
    [
        (("http://[::]:8080",), "http://[::1]:8080", None),
        (("http://[fe80::1]:8080",), "http://[fe80::1]:8080", None),
        (("http://127.0.0.1:8080", "unix:/run/r.sock"), "http://localhost", "/run/r.sock"),
        (("unix:relative.sock", "http://127.0.0.1:1"), "http://127.0.0.1:1", None),
    ],
)
def test_addresses_are_made_such_that_they_are_reached(
    machine: Machine, urls: tuple[str, ...], url: str, socket: str | None
) -> None:
    machine.router(*urls)
    found = machine.find()
    assert (found.url, found.socket) == (url, socket)


def test_a_container_whose_flags_say_the_port(machine: Machine) -> None:
    """Its image sets the host by a variable; its health check has this variable and no flags."""
    machine.router("http://0.0.0.0:9000", hosts=("0.0.0.0",), prefix="/llm")
    assert machine.find(LLAMA_ARG_HOST="0.0.0.0").url == "http://127.0.0.1:9000/llm"
    assert machine.find(LLAMA_ARG_HOST="0.0.0.0", LLAMA_ARG_PORT="0").url == "http://127.0.0.1:9000/llm"
    assert machine.find(LLAMA_ARG_HOST="box").url == "http://box:8080"


def test_a_run_folder_that_is_named(machine: Machine) -> None:
    root = machine.folder / "mine"
    machine.router("http://127.0.0.1:9999", root=str(root))
    assert machine.find().url == "http://127.0.0.1:8080"
    assert machine.find("--run-dir", str(root)).url == "http://127.0.0.1:9999"
    assert machine.find(LLAMA_ROUTER_RUN_DIR=str(root)).url == "http://127.0.0.1:9999"


def test_of_several_one_must_be_named(machine: Machine) -> None:
    machine.router("http://127.0.0.1:81", hosts=("127.0.0.1",))
    machine.router("http://127.0.0.1:82", hosts=("127.0.0.1",))
    machine.belongs_to_another_process(1)
    with pytest.raises(NotReached, match=r"http://127.0.0.1:8., http://127.0.0.1:8.\. Say which"):
        machine.find()
    assert machine.find(LLAMA_ARG_PORT="82").url == "http://127.0.0.1:82"
    assert machine.find("--port", "83").url == "http://127.0.0.1:83"


def test_routers_that_share_a_port_are_one(machine: Machine) -> None:
    """As one takes over from the other."""
    machine.router("http://127.0.0.1:81")
    machine.router("http://127.0.0.1:81")
    machine.belongs_to_another_process(1)
    assert len(find_all([machine.runtime / "llama-router"])) == 2
    assert machine.find().url == "http://127.0.0.1:81"


def test_the_key_of_a_router_goes_to_no_other(machine: Machine) -> None:  # B-O6
    key = machine.file("keys", "sk-1")
    config = machine.file("router.ini", f"port = 81\napi-key-file = {key}\n")
    machine.router("http://127.0.0.1:9999", key_files=(key,))
    for argv in (["--url", "http://elsewhere"], ["--host", "elsewhere"], ["--port", "82"]):
        assert machine.find(*argv).key == "", argv
        assert machine.find(*argv, LLAMA_ROUTER_CONFIG=config).key == "", argv
        # Given by the user together with the address, it is meant for it.
        assert machine.find(*argv, "--api-key-file", key).key == "sk-1"
        assert machine.find(*argv, LLAMA_API_KEY="mine").key == "mine"
        assert machine.find(*argv, "--config", config).key == "sk-1"


def test_who_listens_where_a_router_has_ended_gets_nothing(machine: Machine) -> None:  # B-O6
    """Any user of the machine may take the port then."""
    key = machine.file("keys", "sk-1")
    with stub(lambda asked: Reply({})) as server:
        machine.router(server.url, key_files=(key,))
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as router:
            machine.belongs_to_another_process(0, router.pid)
            with Session(machine.find()) as session:
                session.json("GET", "/models")
                assert server.asked[0].headers["x-api-key"] == "sk-1"
                router.communicate(b"\n")
                with pytest.raises(NotReached, match="has ended"):
                    session.json("GET", "/models")
        assert len(server.asked) == 1
        with Session(machine.find("--url", server.url, "--api-key", "mine")) as session:  # who names it, means it
            session.json("GET", "/models")
        assert server.asked[-1].headers["x-api-key"] == "mine"


def test_the_key_that_may_do_more_is_sent(machine: Machine) -> None:
    key = machine.file("keys", "# one a line\n\nfrom-file\n")
    assert machine.find("--api-key", "a", "--admin-key", "b").key == "b"
    assert machine.find("--api-key", "a", LLAMA_ROUTER_ADMIN_KEY="b").key == "b"
    assert machine.find("--admin-key-file", key, LLAMA_API_KEY="a").key == "from-file"


def test_a_key_is_never_shown(machine: Machine) -> None:
    found = machine.find("--api-key", "s3cret-key")
    assert "s3cret" not in repr(found) + str(found)


@pytest.mark.parametrize(
    ("argv", "fragment"),
    [
        (["--url", "box:8080"], "takes an address such as http://"),
        (["--url", "ftp://box"], "takes an address"),
        (["--url", "http://"], "takes an address"),
        (["--url", "http://a b"], "takes an address"),
        (["--url", "http://box:port"], "takes an address"),
        (["--url", "http://box\x1b[2J"], "takes an address"),
        (["--url", "http://me:s3cret@box"], "no user and no password"),
        (["--url", "http://box/?key=s3cret"], "without ? and #"),
        (["--url", "http://box", "--port", "81"], "leave --port out"),
        (["--host", "http://box"], "--url takes a whole one"),
        (["--port", "99999"], "takes a port"),
        (["--cacert", "/gone.pem"], "there is no such file"),
        (["--cacert", "/gone.pem", "--insecure"], "leave one out"),
        (["--api-key", ","], "takes a key"),
        (["--api-key-file", "/gone"], "cannot read --api-key-file"),
        (["--models-max", "3"], "unknown flag"),
        (["word"], "does not take 'word'"),
    ],
)
def test_what_is_wrong_is_told_without_the_secret(machine: Machine, argv: list[str], fragment: str) -> None:
    with pytest.raises(FlagError) as found:
        target.find(options.read("ps", argv, most=0), {"XDG_RUNTIME_DIR": str(machine.runtime)})
    assert fragment in found.value.message
    assert "s3cret" not in found.value.message


def test_an_empty_key_is_a_mistake(machine: Machine) -> None:
    with pytest.raises(FlagError, match="LLAMA_API_KEY is empty"):
        machine.find(LLAMA_API_KEY="")


def test_other_variables_cannot_be_wrong_here(machine: Machine) -> None:
    assert machine.find(LLAMA_ARG_MODELS_MAX="many").url == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080", True),
        ("http://localhost", True),
        ("http://box", False),
        ("https://10.0.0.1", False),
        ("http://localhost.evil.example", False),
    ],
)
def test_what_is_on_this_machine(url: str, is_local: bool) -> None:
    assert Target(url).is_local is is_local
    assert Target("http://localhost", "/run/r.sock").is_local
