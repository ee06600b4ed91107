"""`serve` from outside: mistakes are reported before anything starts, and nothing is left when it ends."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import socket
from pathlib import Path

import httpx
import pytest

from router import demo
from tests.conftest import Starter
from tests.routers import FAKE, chat
from tests.shell import Shell, write
from tests.waiting import PATIENCE_S, until


def test_a_port_in_use_is_refused(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = shell.refuses("--port", str(port))
    assert f"port {port}: another program uses it" in sentence
    assert "--port" in sentence


def test_a_socket_in_use_is_refused(shell: Shell) -> None:
    path = shell.folder / "r.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        assert "another program listens there" in shell.refuses("--host", str(path))
        assert path.exists()
    # The file is removed when a later host fails. A file on which nothing listens any more is replaced.
    assert "Name or service" in shell.refuses("--host", f"{path},no-such-host.invalid")
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        ("--models-preset gone.ini", ["gone.ini: cannot read the preset file: No such file"]),
        ("--models-preset .", ["broken.ini:3: unknown key 'ctx-siz'; did you mean ctx-size?"]),  # *.ini of a folder
        ("--models-preset broken.ini", ["broken.ini:3: unknown key 'ctx-siz'; did you mean ctx-size?"]),
        ("--models-preset clash.ini", ["the alias 'b' of model 'a' is also a name of model 'b': change one"]),
        ("--models-dir gone", ["--models-dir gone: No such file", "name a folder that holds .gguf files"]),
        ("--models-dir clash.ini", ["--models-dir clash.ini: Not a directory"]),
        ("--models-preset fine.ini --models-default sevn", ["no model 'sevn'; did you mean seven?"]),
        ("--models-preset fine.ini --models-default x", ["no model 'x'; llama-router list tells what there is"]),
        ("--engine gone", ["--engine: there is no gone", "pip install"]),
        ("--engine {folder}/plain", ["plain is not executable", "chmod +x"]),
        ("--engine ./other", ["/other does not answer --version"]),
        ("--engine {folder}/other --ctx-size 5", ["does not answer --version as llama-server does"]),
        ("--engine {folder}/failing", ["failing --version ended with code 3: no luck"]),
        ("--engine {folder}/garbage", ["cannot be run (Exec format error)"]),
        ("--modls-dir x", ["unknown flag '--modls-dir'; did you mean --models-dir?"]),
        ("--ctx-sise 5", ["did you mean --ctx-size?"]),
        ("models/x.gguf", ["unexpected argument 'models/x.gguf'"]),
        ("--models-max", ["--models-max needs a value"]),
        ("--models-dir --models-max 3", ["--models-dir needs a value, but --models-max follows it"]),
        ("--port abc", ["--port takes a port, 0 to 65535, not 'abc'"]),
        ("--port 70000", ["--port takes a port"]),
        ("--models-max -1", ["--models-max takes a whole number, 0 or more, not '-1'"]),
        ("--models-memory-margin 5,x", ["--models-memory-margin takes MiB", "not '5,x'"]),
        ("--models-queue-timeout nan", ["--models-queue-timeout takes seconds"]),
        ("--log-level loud", ["debug, info, warning or error"]),
        ("--log-file gone/x.log", ["--log-file gone/x.log cannot be written: No such file"]),
        (f"--host /tmp/{'x' * 120}.sock", ["Cannot listen on /tmp/xx", "may have 10", "name a shorter one"]),
        ("--host 192.0.2.1", ["Cannot listen on 192.0.2.1", "check --host"]),
        ("--models-preset fine.ini --run-dir clash.ini", ["clash.ini cannot be made", "Name another --run-dir"]),
        ("--ssl-cert-file clash.ini", ["HTTPS needs both --ssl-key-file and --ssl-cert-file"]),
        ("--ssl-key-file gone.pem --ssl-cert-file clash.ini", ["--ssl-key-file gone.pem cannot be read: No such file"]),
        ("--ssl-key-file clash.ini --ssl-cert-file clash.ini", ["no certificate and plain private key"]),
        ("--api-key-file gone", ["cannot read --api-key-file gone: No such file"]),
        ("--api-key-file empty", ["--api-key-file empty holds no key: write one a line"]),
    ],
)
def test_a_mistake_is_reported_before_anything_starts(shell: Shell, words: str, fragments: list[str]) -> None:
    folder = shell.folder
    write(folder / "broken.ini", "[a]\nhf-repo = user/repo\nctx-siz = 5\n")
    write(folder / "clash.ini", "[a]\nhf-repo = user/a\nalias = b\n[b]\nhf-repo = user/b\n")
    write(folder / "fine.ini", "[seven]\nhf-repo = user/a\n[eight]\nhf-repo = user/b\n")
    write(folder / "plain", "#!/bin/sh\n")
    write(folder / "other", "#!/bin/sh\necho hello\n", executable=True)
    write(folder / "failing", "#!/bin/sh\necho no luck >&2; exit 3\n", executable=True)
    write(folder / "garbage", "\x00\x01", executable=True)
    write(folder / "empty", "# none\n")
    sentence = shell.refuses(*words.format(folder=folder).split())
    assert all(fragment in sentence for fragment in fragments), sentence


def test_a_wrong_variable_is_reported(shell: Shell) -> None:
    assert "LLAMA_ROUTER_MODELS_TTL takes seconds" in shell.refuses(LLAMA_ROUTER_MODELS_TTL="soon")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_router_and_its_children(
    routers: Starter, tiny_models: Path, tmp_path: Path, number: int
) -> None:
    path = tmp_path / "r.sock"
    where = ("--host", f"127.0.0.1,{path}")
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), *where)
    assert path.is_socket()
    assert router.chat("tiny-a").status_code == 200
    children = router.children()
    router.process.send_signal(number)
    assert router.process.wait(15) == 0
    assert not path.exists()
    assert len(children) == 1
    assert not children[0].is_running()


def test_at_the_end_running_requests_finish_and_waiting_ones_are_refused(routers: Starter, tiny_models: Path) -> None:
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--models-max", "1", "--models-drain-grace", "60")
    router = routers(*flags, FAKE_CHUNK_SECONDS="0.05")
    with router.stream("tiny-a", 20) as events, concurrent.futures.ThreadPoolExecutor(1) as pool:
        next(events)
        waiting = pool.submit(router.chat, "tiny-b")
        until(lambda: router.figure("requests_waiting", "tiny-b") == 1)
        router.process.send_signal(signal.SIGTERM)
        assert waiting.result().status_code == 503
        assert len(events.json()) == 20  # with the end, without the first
    assert router.process.wait(15) == 0
    assert "Traceback" not in router.log


def test_the_log_goes_to_its_file_at_its_level(routers: Starter, tiny_models: Path, tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    options = ("--engine", FAKE, "--models-dir", str(tiny_models), "--log-file", str(log))
    router = routers(*options)
    assert router.chat("tiny-a").status_code == 200
    router.stop()
    assert [line.split()[:2] for line in router.log.splitlines()] == [["llama-router", "is"]]
    text = log.read_text()
    assert " I router.run: tiny-a: ready after " in text
    quiet = routers(*options, "--log-level", "error")
    assert quiet.chat("tiny-a").status_code == 200
    quiet.stop()
    assert log.read_text() == text
    loud = routers(*options[:-2], "--log-level", "debug")
    assert loud.chat("tiny-a").status_code == 200
    loud.stop()
    assert all(" router." in line or "listening" in line for line in loud.log.splitlines())


def test_the_first_listing_has_what_the_headers_say(routers: Starter, tmp_path: Path) -> None:
    demo.make_models(tmp_path / "models")
    write(tmp_path / "models" / "text.gguf", "no model")
    router = routers("--engine", FAKE, "--models-dir", str(tmp_path / "models"))
    models = router.listing()
    assert models["tiny-a"]["meta"]["n_ctx_train"] == 2048
    assert "is not a GGUF file" in models["text"]["status"]["error"]
    assert "W router.serve: text cannot be served" in router.log
    (tmp_path / "models" / "tiny-b.gguf").unlink()
    demo.write_tiny(tmp_path / "models" / "tiny-d.gguf", context=777)
    assert router.client.post("/models/reload").json()["added"] == ["tiny-d"]
    assert router.listing()["tiny-d"]["meta"]["n_ctx_train"] == 777


# B-P10
@pytest.mark.parametrize("variable", ["TMPDIR", "XDG_RUNTIME_DIR"])
def test_a_long_temporary_folder_keeps_no_router_from_starting(shell: Shell, tiny_models: Path, variable: str) -> None:
    """Several routers at once, each with children of its own."""
    long = shell.folder / ("x" * 120)
    long.mkdir(mode=0o700)
    environ = {"XDG_RUNTIME_DIR": "", variable: str(long)}
    with contextlib.ExitStack() as stack:
        urls = []
        for number in range(2):
            words = ("--engine", FAKE, "--models-dir", str(tiny_models), "--port", "0")
            process = stack.enter_context(shell.start(words, environ))
            stack.callback(process.communicate)
            stack.callback(process.terminate)
            assert process.stderr
            line = next(line for line in iter(process.stderr.readline, "") if "is listening on" in line)
            urls.append(line.split()[-1])
            assert len(urls) == number + 1
        for url in urls:
            answer = httpx.post(f"{url}/v1/chat/completions", json=chat("tiny-a"), timeout=PATIENCE_S)
            assert answer.status_code == 200
    assert not list(long.rglob("*.sock"))
