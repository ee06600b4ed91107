"""What may go wrong between a command and a router: a sentence, an exit code, and no key in the wrong place. B-O6"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.client.failures import NotReached
from router.client.session import MAX_ANSWER_BYTES, Session
from router.client.target import Target
from tests.client.conftest import Run, make_certificate
from tests.client.stub import Reply, error, stub
from tests.shell import Shell

OK = Reply({"models": [], "devices": []})


@pytest.mark.parametrize(
    ("reply", "code", "fragment"),
    [
        (OK, 0, ""),
        (error("no such thing", 400), 1, "no such thing"),
        (error("give a key.", 401), 4, "give a key. Give a key with LLAMA_API_KEY or --api-key-file."),
        (error("not with this key", 403), 4, "not with this key"),
        (error("there is no model 'x'", 404), 5, "there is no model 'x'"),
        (error("busy", 429), 6, "busy"),
        (error("loading", 503, retry_after="5"), 6, "loading"),
        (error("full", 507), 1, "full"),
        (error("a\x1b]0;title\x07b", 500), 1, r"a\x1b]0;title\x07b"),
        (Reply({"error": "as Ollama says it"}, 500), 1, "as Ollama says it"),
        (Reply(b"<html>", 200), 3, "is no llama-router"),
        (Reply(b"[1]", 200), 3, "is no llama-router"),
        (Reply(b"[" * 100_000, 200), 3, "is no llama-router"),
        (Reply(b"<html>", 404), 3, "is no llama-router (status 404)"),
        (Reply(b"", 302, {"location": "http://elsewhere/"}), 3, "sends to http://elsewhere/"),
    ],
)
def test_every_answer_has_its_exit_code(llama_router: Run, reply: Reply, code: int, fragment: str) -> None:  # B-O6
    with stub(lambda asked: reply) as server:
        ended = llama_router("ps", "--url", server.url)
    assert ended.code == code, ended
    assert fragment in ended.err
    assert (ended.out == "") is (code != 0)
    assert "\x1b" not in ended.err


def test_no_router_is_three(llama_router: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ended = llama_router("ps", "--port", str(port))
    assert ended.code == 3
    assert f"no router answers at http://127.0.0.1:{port}" in ended.sentence


def test_no_socket_is_three(shell: Shell) -> None:
    """In a process of its own: the HTTP library leaves such a socket to the garbage collector."""
    ended = shell("health", "--host", "/gone/r.sock")
    assert (ended.code, "/gone/r.sock" in ended.sentence) == (3, True)


def test_the_command_line_is_two(llama_router: Run) -> None:
    for words in (
        ["ps", "x"],
        ["load"],
        ["unload"],
        ["logs", "-n", "x"],
        ["run"],
        ["completion", "tcsh"],
        ["ps", "--wat"],
    ):
        assert llama_router(*words).code == 2, words
    assert "did you mean --watch?" in llama_router("ps", "--wat").sentence


def test_a_key_is_sent_as_a_header_and_not_followed_elsewhere(llama_router: Run) -> None:  # B-O6
    with stub(lambda asked: OK) as other, stub(lambda asked: Reply(b"", 307, {"location": other.url})) as server:
        ended = llama_router("ps", "--url", server.url, LLAMA_API_KEY="sk-secret-1")
    assert ended.code == 3
    [asked] = server.asked
    assert asked.headers["x-api-key"] == "sk-secret-1"
    assert "sk-secret" not in asked.path + ended.out + ended.err
    assert other.asked == []


def test_a_proxy_sees_nothing_that_is_not_encrypted(llama_router: Run) -> None:
    """Neither what goes to this machine, nor a key on its way to another one."""
    with stub(lambda asked: OK) as server, stub(lambda asked: error("a proxy", 500)) as proxy:
        environ = {"HTTP_PROXY": proxy.url, "http_proxy": proxy.url, "ALL_PROXY": proxy.url, "HTTPS_PROXY": proxy.url}
        assert llama_router("ps", "--url", server.url, LLAMA_API_KEY="k", **environ).code == 0
        assert llama_router("ps", "--url", "http://no-such-host.invalid", LLAMA_API_KEY="k", **environ).code == 3
        assert llama_router("health", "--url", server.url.replace("127.0.0.1", "localhost"), **environ).code == 0
        assert proxy.asked == []
        # To another machine by https the proxy is only asked for a way.
        assert (
            llama_router("ps", "--url", "https://no-such-host.invalid", LLAMA_API_KEY="sk-secret", **environ).code == 3
        )
        assert proxy.asked
        assert all(asked.method == "CONNECT" and "sk-secret" not in str(asked) for asked in proxy.asked)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "nonsense://x", "http://[", "http://127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used_is_told(llama_router: Run, proxy: str) -> None:
    ended = llama_router("ps", "--url", "https://no-such-host.invalid", ALL_PROXY=proxy, HTTPS_PROXY=proxy)
    assert ended.code in (2, 3), ended
    assert ended.sentence


def test_health_sends_no_key(llama_router: Run) -> None:
    with stub(lambda asked: Reply({"status": "ok"})) as server:
        ended = llama_router("health", "--url", server.url, LLAMA_API_KEY="k")
        assert ended == (0, f"{server.url}: ok\n", "")
    assert "x-api-key" not in server.asked[0].headers


@pytest.mark.parametrize(
    ("reply", "code", "sentence"),
    [
        (Reply({"status": "ok"}), 0, "ok"),
        (error("Loading model", 503), 1, "Loading model"),
        (Reply({"status": "draining", "error": {"message": "It ends."}}, 503), 1, "It ends."),
        (Reply({"status": "\x1b[2J"}), 0, r"\x1b[2J"),
    ],
)
def test_health(llama_router: Run, reply: Reply, code: int, sentence: str) -> None:
    with stub(lambda asked: reply) as server:
        assert llama_router("health", "--url", server.url) == (code, f"{server.url}: {sentence}\n", "")
        ended = llama_router("health", "--url", server.url, "--json")
        assert json.loads(ended.out)["healthy"] is (code == 0)


def test_health_waits_as_long_as_it_is_told(llama_router: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        ended = llama_router("health", "--url", url, "--timeout", "0.1")
    assert (ended.code, "does not answer in time" in ended.sentence) == (3, True)
    for word in ("0", "-1", "soon", "inf"):
        assert llama_router("health", "--timeout", word).code == 2


def test_a_socket_is_asked_as_a_port_is(llama_router: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "r.sock")
    with stub(lambda asked: Reply({"status": "ok"}), path) as server:
        assert llama_router("health", "--host", path) == (0, f"{path}: ok\n", "")
        assert llama_router("health", "--api-prefix", "/llm", LLAMA_ARG_HOST=path).code == 0
        assert [asked.path for asked in server.asked] == ["/health", "/llm/health"]


def test_https_trusts_whom_the_user_names(llama_router: Run, certificate: tuple[str, str]) -> None:
    with stub(lambda asked: OK, certificate=certificate) as server:
        by_name = server.url.replace("127.0.0.1", "localhost")
        ended = llama_router("ps", "--url", by_name, LLAMA_API_KEY="k")
        assert (ended.code, "--cacert FILE, or trust any with --insecure" in ended.sentence) == (3, True)
        assert server.asked == []
        assert llama_router("ps", "--url", by_name, "--cacert", certificate[0]).code == 0
        assert llama_router("ps", "--url", server.url, "--cacert", certificate[0]).code == 3, "another name"
        assert llama_router("ps", "--url", server.url, "--ssl-cert-file", certificate[0]).code == 0
        assert llama_router("ps", "--url", server.url, "--insecure").code == 0
        port = server.url.rpartition(":")[2]
        assert llama_router("ps", "--port", port, LLAMA_ARG_SSL_CERT_FILE=certificate[0]).code == 0
        ended = llama_router("ps", "--url", server.url, "--cacert", certificate[1])
        assert (ended.code, "cannot be read as certificates" in ended.sentence) == (2, True)


def test_another_certificate_is_not_the_routers(
    llama_router: Run, certificate: tuple[str, str], tmp_path: Path
) -> None:
    other = make_certificate(tmp_path / "other")
    with stub(lambda asked: OK, certificate=certificate) as server:
        assert llama_router("ps", "--url", server.url, "--ssl-cert-file", other[0], LLAMA_API_KEY="k").code == 3
        assert server.asked == []


def test_an_answer_without_an_end_is_given_up(llama_router: Run) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * (1 << 20)

    with (
        stub(lambda asked: Reply(pieces=endless)) as server,
        Session(Target(server.url)) as session,
        pytest.raises(NotReached, match="too much"),
    ):
        session.json("GET", "/router/state")
    assert MAX_ANSWER_BYTES < 1 << 30


def test_a_connection_that_breaks_is_told(llama_router: Run) -> None:
    with stub(lambda asked: Reply(b"{", headers={"content-length": "100"})) as server:
        ended = llama_router("ps", "--url", server.url)
    assert (ended.code, "broke" in ended.sentence) == (3, True)
