"""The command line, as a person and as a script see it: what it prints, how it ends, and what it leaves behind."""

from __future__ import annotations

import concurrent.futures
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from router import __version__, demo
from router.__main__ import COMMANDS
from tests.conftest import Starter
from tests.routers import FAKE
from tests.waiting import until

Process = subprocess.Popen[str]
TRACE = "TEST_COMMAND_LINE"  # its value is inherited by whatever a command starts


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line on stderr."""
        assert self.err.startswith("llama-router: ")
        assert self.err.count("\n") == 1, self.err
        return self.err


class Shell:
    """Runs commands in a folder of their own, with no models but those that they name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trace = secrets.token_hex(8)
        self.run_dir = folder / "run"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def start(
        self,
        words: Sequence[str],
        environ: Mapping[str, str],
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
    ) -> Process:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("LLAMA_", "HF_"))}
        own = {"HF_HOME": str(self.folder / "hf"), "LLAMA_CACHE": str(self.folder / "cache"), TRACE: self.trace}
        own["PYTHONUNBUFFERED"] = ""
        return subprocess.Popen(
            [sys.executable, "-m", "router", *words],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            cwd=self.folder,
            env={**keep, **own, "PYTHONPATH": str(Path(__file__).parents[1]), **environ},
        )

    def __call__(self, *words: str, **environ: str) -> Ended:
        with self.start(words, environ) as process:
            out, err = process.communicate(timeout=30)
        assert "Traceback" not in err
        return Ended(process.returncode, out, err)

    def refuses(self, *words: str, **environ: str) -> str:
        """To serve like this; the sentence. Nothing is left of the attempt."""
        where = ("--port", str(self.port), "--run-dir", str(self.run_dir), "--engine", FAKE)
        ended = self(*where, *words, **environ)
        assert (ended.code, ended.out) == (2, "")
        socket.create_server(("127.0.0.1", self.port)).close()
        assert not [entry for entry in self.run_dir.glob("*") if entry.name != "lock"]
        assert not self.left()
        return ended.sentence

    def left(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._mark(process) == self.trace]

    @staticmethod
    def _mark(process: psutil.Process) -> str | None:
        try:
            return process.environ().get(TRACE)
        except (psutil.Error, OSError):
            return None


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    assert not shell.left()


def write(path: Path, text: str, *, executable: bool = False) -> Path:
    path.write_text(text)
    path.chmod(0o755 if executable else 0o644)
    return path


# ---- commands


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help(shell: Shell, name: str) -> None:
    words = [name] if name else []
    told = shell(*words, "--help")
    assert told == shell(*words, "-h")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("usage: llama-router ")
    assert "Exit codes: 0 " in told.out
    assert ("--models-memory-margin" in told.out) is (name in ("", "serve"))
    assert all((f"llama-router {other}" in told.out) is (not name or other == name) for other in ("demo", "check"))


def test_version(shell: Shell) -> None:
    assert shell("--version") == shell("list", "--version") == (0, f"llama-router {__version__}\n", "")


def test_unknown_command_names_the_nearest(shell: Shell) -> None:
    assert shell("chekc", "x.ini").sentence == (
        "llama-router: there is no command 'chekc'; did you mean check?\n"  #
    )
    ended = shell("models")
    assert ended.code == 2
    assert "llama-router --help" in ended.sentence


def test_demo_answers_and_ends(shell: Shell) -> None:
    ended = shell("demo", "--once", "--engine", "embedded", "--run-dir", str(shell.run_dir), "--threads", "1")
    assert ended.code == 0, ended.err
    answers = dict(line.split(": ", 1) for line in ended.out.splitlines())
    assert list(answers) == ["tiny-a", "tiny-b", "tiny-c"]
    assert all(len(words.split()) > 3 for words in answers.values())
    assert "stopping (room for tiny-c)" in ended.err


def test_demo_goes_on_until_it_is_told_to_end(shell: Shell) -> None:
    shell.run_dir.mkdir()
    with shell.start(("demo", "--engine", FAKE, "--port", str(shell.port)), {"TMPDIR": str(shell.folder)}) as process:
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith(f"curl http://127.0.0.1:{shell.port}/v1/chat/") for line in lines)
        assert any(line.startswith("tiny-c: ") for line in lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
        process.communicate()
    assert not list(shell.folder.glob("llama-router-demo-*"))


def test_demo_without_an_answer(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", shell.port)):  # a demo that ends needs no certain port
        environ = {"LLAMA_ARG_PORT": str(shell.port), "TMPDIR": str(shell.folder), "FAKE_FAIL": "no luck"}
        ended = shell("demo", "--once", "--engine", FAKE, **environ)
    assert ended.code == 1
    assert ended.out.count("no answer") == 3


def test_list(shell: Shell, tiny_models: Path) -> None:
    presets = write(
        shell.folder / "p.ini", f"[one]\nmodel = {tiny_models}/tiny-a.gguf\nhf-token = s3cret\nctx-size = 9\n"
    )
    write(shell.folder / "text.gguf", "no model")
    options = ("--models-preset", str(presets), "--models-dir", str(shell.folder), "--engine", FAKE)
    ended = shell("list", *options)
    assert (ended.code, ended.err) == (0, "")
    header, one, text = ended.out.splitlines()
    assert header.split() == ["name", "source", "size", "context", "quantization", "problem"]
    assert one.split() == ["one", "preset", "1", "MiB", "2048", "F32"]
    assert "is not a GGUF file" in text
    rows = {row["name"]: row for row in json.loads(shell("list", "--json", *options).out)}
    assert rows["one"]["architecture"] == "llama"
    assert rows["one"]["args"][-2:] == ["--ctx-size", "9"]
    assert "s3cret" not in json.dumps(rows)
    assert rows["text"]["problem"]


def test_a_model_that_the_environment_names(shell: Shell, tiny_models: Path) -> None:
    file = str(tiny_models / "tiny-a.gguf")
    (row,) = json.loads(shell("list", "--json", LLAMA_ARG_MODEL=file, LLAMA_ARG_ALIAS="small").out)
    assert (row["name"], row["source"], row["aliases"]) == ("tiny-a", "command_line", ["small"])
    assert shell("list", LLAMA_ARG_MODEL="").code == 1
    (row,) = json.loads(shell("list", "--json", "--model", file, LLAMA_ARG_HF_REPO="user/repo").out)
    assert row["name"] == "tiny-a"
    assert "--hf-repo" not in row["args"]


def test_list_without_models(shell: Shell) -> None:
    ended = shell("list", "--json")
    assert (ended.code, ended.out) == (1, "[]\n")
    assert "--models-dir" in ended.err


def test_list_of_names_that_no_terminal_shows(shell: Shell) -> None:
    for name in (b"\xff.gguf", b"a\x1b[2J\n.gguf"):
        Path(os.fsdecode(bytes(shell.folder) + b"/" + name)).touch()
    ended = shell("list", "--models-dir", ".")
    assert ended.code == 0
    assert ended.out.count("\n") == 3
    assert "\x1b" not in ended.out


def test_check(shell: Shell, tiny_models: Path) -> None:
    bad = write(
        shell.folder / "bad.ini",
        f"""\
[*]
ctx-siz = 4096
mmproj = gone-mmproj.gguf
[a]
model = {tiny_models}/tiny-a.gguf
alias = b
[b]
model = gone.gguf
load-on-startup = maybe
[c]
model = big-00001-of-00002.gguf
[d]
hf-repo = user/repo
model = where-it-goes.gguf
""",
    )
    write(shell.folder / "big-00001-of-00002.gguf", "")
    ended = shell("check", "bad.ini")
    assert (ended.code, ended.err) == (1, "")
    lines = ended.out.splitlines()
    for line, (number, fragment) in zip(
        lines,
        [
            (2, "unknown key 'ctx-siz'; did you mean ctx-size?"),
            (3, "the file gone-mmproj.gguf is missing"),
            (6, "the alias 'b' of model 'a' is also a name of model 'b'"),
            (8, "the file gone.gguf is missing"),
            (9, "load-on-startup is a switch"),
            (11, "the shard big-00002-of-00002.gguf of 2 is missing"),
        ],
        strict=True,
    ):
        assert line.startswith(f"bad.ini:{number}: "), line
        assert fragment in line
    (report,) = json.loads(shell("check", "--json", str(bad)).out)
    assert report["models"] == ["a", "b", "c", "d"]
    assert report["problems"][0]["nearest"] == "ctx-size"
    assert [(p["line"], p["key"]) for p in report["problems"]][:3] == [(2, "ctx-siz"), (3, "mmproj"), (6, "alias")]


def test_check_of_a_file_without_problems(shell: Shell) -> None:
    write(shell.folder / "good.ini", "[a]\nhf-repo = user/repo\n")
    write(shell.folder / "latin.ini", "")
    assert shell("check", "good.ini") == (0, "good.ini: no problems; models: a\n", "")
    (shell.folder / "latin.ini").write_bytes(b"[a]\n\xe4 = 1\n")
    ended = shell("check", "good.ini", "latin.ini")
    assert ended.code == 1
    assert "latin.ini:2: the file is not UTF-8" in ended.out


def test_check_of_nothing(shell: Shell) -> None:
    assert "FILE.ini" in shell("check").sentence
    assert "did you mean --json?" in shell("check", "x.ini", "--jsn").sentence
    missing = shell("check", "gone.ini")
    assert missing.code == 2
    assert missing.sentence == "llama-router: gone.ini: cannot read the preset file: No such file or directory\n"


def test_check_knows_the_keys_of_the_engine(shell: Shell) -> None:
    script = """#!/bin/sh
[ "$1" = --version ] && echo "version: 99999 (new)" || printf -- '-m, --model FNAME   model\\n--frobnicate N    new\\n'
"""
    engine = write(shell.folder / "llama-server", script, executable=True)
    write(shell.folder / "new.ini", "[a]\nhf-repo = user/repo\nfrobnicate = 1\n")
    assert "unknown key 'hf-repo'" in shell("check", "new.ini", "--engine", str(engine)).out
    assert "unknown key 'frobnicate'" not in shell("check", "new.ini", LLAMA_ROUTER_ENGINE=str(engine)).out
    assert "unknown key 'frobnicate'" in shell("check", "new.ini", "--engine", FAKE).out
    # A broken one that was found by chance is no reason not to check; one that was named is.
    write(engine, "#!/bin/sh\nexit 1\n", executable=True)
    assert shell("check", "new.ini", PATH=f"{shell.folder}:/usr/bin:/bin").code == 1
    assert shell("check", "new.ini", "--engine", str(engine)).code == 2


# ---- what is wrong is said before anything is started


def test_port_in_use(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = shell.refuses("--port", str(port))
    assert f"port {port}: another program uses it" in told
    assert "--port" in told


def test_socket_in_use(shell: Shell) -> None:
    path = shell.folder / "r.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        assert "another program listens there" in shell.refuses("--host", str(path))
        assert path.exists()
    # The first of two is not left when the second cannot be had, nor is one that nobody listens on any more.
    assert "Name or service" in shell.refuses("--host", f"{path},no-such-host.invalid")
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        ("--models-preset gone.ini", ["gone.ini: cannot read the preset file: No such file"]),
        ("--models-preset .", [".: cannot read the preset file: Is a directory"]),
        ("--models-preset broken.ini", ["broken.ini:3: unknown key 'ctx-siz'; did you mean ctx-size?"]),
        ("--models-preset clash.ini", ["the alias 'b' of model 'a' is also a name of model 'b': change one"]),
        ("--models-dir gone", ["--models-dir gone: No such file", "name a folder that holds .gguf files"]),
        ("--models-dir clash.ini", ["--models-dir clash.ini: Not a directory"]),
        ("--models-dir twins", ["would both be the model 'twin': rename one"]),
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
        ("--host 192.0.2.1", ["Cannot listen on 192.0.2.1", "check --host"]),
        ("--models-preset fine.ini --run-dir clash.ini", ["clash.ini cannot be made", "Name another --run-dir"]),
        ("--ssl-cert-file clash.ini", ["HTTPS needs both --ssl-key-file and --ssl-cert-file"]),
        ("--ssl-key-file gone.pem --ssl-cert-file clash.ini", ["--ssl-key-file gone.pem cannot be read: No such file"]),
        ("--ssl-key-file clash.ini --ssl-cert-file clash.ini", ["no certificate and plain private key"]),
        ("--api-key-file gone", ["cannot read --api-key-file gone: No such file"]),
        ("--api-key-file empty", ["--api-key-file empty holds no key: write one a line"]),
    ],
)
def test_refusal(shell: Shell, words: str, fragments: list[str]) -> None:
    folder = shell.folder
    write(folder / "broken.ini", "[a]\nhf-repo = user/repo\nctx-siz = 5\n")
    write(folder / "clash.ini", "[a]\nhf-repo = user/a\nalias = b\n[b]\nhf-repo = user/b\n")
    write(folder / "fine.ini", "[seven]\nhf-repo = user/a\n[eight]\nhf-repo = user/b\n")
    write(folder / "plain", "#!/bin/sh\n")
    write(folder / "other", "#!/bin/sh\necho hello\n", executable=True)
    write(folder / "failing", "#!/bin/sh\necho no luck >&2; exit 3\n", executable=True)
    write(folder / "garbage", "\x00\x01", executable=True)
    write(folder / "empty", "# none\n")
    (folder / "twins" / "twin").mkdir(parents=True)
    for file in ("twins/twin.gguf", "twins/twin/any.gguf"):
        write(folder / file, "")
    told = shell.refuses(*words.format(folder=folder).split())
    assert all(fragment in told for fragment in fragments), told


def test_wrong_variable(shell: Shell) -> None:
    assert "LLAMA_ROUTER_MODELS_TTL takes seconds" in shell.refuses(LLAMA_ROUTER_MODELS_TTL="soon")


# ---- how it ends


def test_interrupted_before_it_began(shell: Shell) -> None:
    engine = write(shell.folder / "slow", "#!/bin/sh\ntouch asked; exec sleep 60\n", executable=True)
    with shell.start(("--engine", str(engine), "--port", str(shell.port)), {}) as process:
        until((shell.folder / "asked").exists)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_told_to_end(routers: Starter, tiny_models: Path, tmp_path: Path, number: int) -> None:
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


def test_the_end_with_clients(routers: Starter, tiny_models: Path) -> None:
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--models-max", "1", "--models-drain-grace", "60")
    router = routers(*flags, FAKE_CHUNK_SECONDS="0.05")
    with router.stream("tiny-a", 20) as events, concurrent.futures.ThreadPoolExecutor(1) as pool:
        next(events)
        waiting = pool.submit(router.chat, "tiny-b")
        until(lambda: 'waiting{model="tiny-b"} 1' in router.client.get("/metrics").text)
        router.process.send_signal(signal.SIGTERM)
        assert waiting.result().status_code == 503
        assert len(events.json()) == 20  # with the end, without the first
    assert router.process.wait(15) == 0
    assert "Traceback" not in router.log


@pytest.mark.parametrize("words", [("list", "--models-dir", "{}"), ("--help",), ("check", "/dev/null")])
def test_closed_pipe(shell: Shell, tiny_models: Path, words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with shell.start([word.format(tiny_models) for word in words], {}, writer) as process:
        os.close(writer)
        _, err = process.communicate(timeout=15)
    assert (process.returncode, err) == (0, "")


def test_log_file_and_level(routers: Starter, tiny_models: Path, tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    options = ("--engine", FAKE, "--models-dir", str(tiny_models), "--log-file", str(log))
    router = routers(*options)
    assert router.chat("tiny-a").status_code == 200
    router.stop()
    assert [line.split()[:2] for line in router.log.splitlines()] == [["llama-router", "is"]]
    told = log.read_text()
    assert " I router.run: tiny-a: ready after " in told
    quiet = routers(*options, "--log-level", "error")
    assert quiet.chat("tiny-a").status_code == 200
    quiet.stop()
    assert log.read_text() == told
    loud = routers(*options[:-2], "--log-level", "debug")
    assert loud.chat("tiny-a").status_code == 200
    loud.stop()
    assert all(" router." in line or "listening" in line for line in loud.log.splitlines())


def test_the_list_is_whole_from_the_first_moment(routers: Starter, tmp_path: Path) -> None:
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
