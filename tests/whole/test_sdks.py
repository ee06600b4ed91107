"""Other clients that people use, each in a process of its own, over routers with room for one model.

They are installed apart, in `.clients` and `tests/clients/node_modules`: they need older libraries than the tests.
"""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.routers import FAKE, Router, start
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".clients/bin"
MODULES = ROOT / "tests/clients/node_modules"
INSTALL = """the clients of this test are not installed: python3 -m venv .clients && \
.clients/bin/pip install -r tests/clients/requirements.txt && \
PATH="$PWD/.clients/bin:$PATH" npm ci --prefix tests/clients"""
HI = {"role": "user", "content": "hi"}
TODAY = {"title": "today", "type": "object", "properties": {"today": {"type": "boolean"}}, "required": ["today"]}
RAIN = {"name": "rain", "description": "Does it rain?", "parameters": TODAY, "strict": True}
TOOLS = [{"type": "function", "function": RAIN}]
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"  # as in tests/api/ollama/conftest.py


def python(name: str) -> tuple[str, ...]:
    return "python", "-m", f"tests.clients.{name}"


@dataclass(frozen=True, slots=True)
class Kind:
    """A client to run.

    `error` is the class and the status of its error for an unknown model.
    `api` is the one of its APIs that it uses."""

    command: tuple[str, ...]
    error: tuple[str, int]
    api: str = ""


NOT_FOUND = ("NotFoundError", 404)
CLIENTS = {
    "openai.js": Kind(("node", "tests/clients/openai.mjs"), NOT_FOUND),
    "ollama.js": Kind(("node", "tests/clients/ollama.mjs"), ("ResponseError", 404)),
    "openai": Kind(python("openai"), NOT_FOUND),
    "anthropic": Kind(python("anthropic"), NOT_FOUND),
    "langchain-openai": Kind(python("langchain"), ("OpenAIModelNotFoundError", 404), "openai"),
    "langchain-responses": Kind(python("langchain"), ("OpenAIModelNotFoundError", 404), "responses"),
    "langchain-ollama": Kind(python("langchain"), ("ResponseError", 404), "ollama"),
    "litellm-openai": Kind(python("litellm"), NOT_FOUND, "openai"),
    "litellm-ollama": Kind(python("litellm"), NOT_FOUND, "ollama"),
}
EMBEDDING = sorted(CLIENTS.keys() - {"anthropic", "langchain-responses"})
CALLING = EMBEDDING  # the fake engine calls tools in this dialect only
SHAPING = EMBEDDING


class Elsewhere(socketserver.TCPServer):
    """A proxy that answers nothing; `requests` has the first line of each request."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        super().__init__(("127.0.0.1", 0), Elsewhere.Visit)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    class Visit(socketserver.StreamRequestHandler):
        server: Elsewhere

        def handle(self) -> None:
            self.server.requests.append(self.rfile.readline())


class Program:
    """The process of a client: a line of JSON for each task. Requests to other hosts than 127.0.0.1 go to `proxy`."""

    def __init__(self, command: tuple[str, ...], folder: Path, proxy: str, ollama: str) -> None:
        program = PLACE / command[0]
        assert program.exists(), INSTALL
        assert MODULES.exists(), INSTALL
        environ = {
            "PATH": os.defpath,
            "HOME": str(folder),
            "http_proxy": proxy,
            "https_proxy": proxy,
            "no_proxy": "127.0.0.1",
            "NODE_USE_ENV_PROXY": "1",
            "OLLAMA_API_BASE": ollama,  # litellm looks up models here, whatever api_base is
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LANGSMITH_TRACING": "false",
        }
        self._log = folder / "client.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, *command[1:]],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(task), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, f"it ended:\n{self._log.read_text(errors='replace')}"
        return dict(json.loads(line))

    def close(self) -> None:
        """It ends by itself when its stdin ends."""
        with self.process:
            try:
                self.process.communicate(timeout=30)
            finally:
                self.process.kill()
        assert self.process.returncode == 0


@dataclass(frozen=True, slots=True)
class Client:
    program: Program
    kind: Kind

    def ask(self, do: str, router: Router, model: str, **more: Any) -> dict[str, Any]:
        """The result, or the error."""
        api = {"api": self.kind.api} if self.kind.api else {}
        words = {} if do == "embed" else {"messages": [HI]}
        return self.program.ask({"do": do, **api, "url": router.url, "model": model, **words, **more})

    def done(self, do: str, router: Router, model: str, **more: Any) -> Any:
        answer = self.ask(do, router, model, **more)
        assert "done" in answer, answer
        return answer["done"]


@pytest.fixture(scope="module")
def router(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A real engine, models that speak and embed, and room for one."""
    folder = tmp_path_factory.mktemp("sdks")
    model = f"model = {tiny_models}/tiny-a.gguf\n"
    presets = f"[plain]\n{model}chat-template = {PLAIN}\n[endless]\n{model}context-shift = true\n"
    (folder / "models.ini").write_text(presets)
    flags = ("--models-dir", str(tiny_models), "--models-preset", str(folder / "models.ini"), "--models-max", "1")
    made = start(folder / "router", "--engine", "embedded", *flags, "--embeddings", "--pooling", "mean")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def caller(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A fake engine that calls tools, as no tiny model does."""
    folder = tmp_path_factory.mktemp("caller")
    flags = ("--models-dir", str(tiny_models), "--models-max", "1")
    made = start(folder / "router", "--engine", FAKE, *flags, FAKE_TOOL_ARGUMENTS='{"today": true}')
    yield made
    made.stop()


@pytest.fixture(scope="module")
def programs(router: Router, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind], Program]]:
    """Starts each client once. At the end, none of them has sent a request to anything but the router."""
    with Elsewhere() as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, args=(0.05,), daemon=True).start()
        started: dict[tuple[str, ...], Program] = {}

        def program(kind: Kind) -> Program:
            if kind.command not in started:
                folder = tmp_path_factory.mktemp("client")
                started[kind.command] = Program(kind.command, folder, elsewhere.url, router.url)
            return started[kind.command]

        yield program
        for each in started.values():
            each.close()
        elsewhere.shutdown()
        assert elsewhere.requests == []


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, programs: Callable[[Kind], Program]) -> Client:
    kind = CLIENTS[request.param]
    return Client(programs(kind), kind)


def test_it_switches_models_in_the_middle_of_a_conversation(client: Client, router: Router) -> None:  # B-S1 B-S3
    messages = [HI]
    for model in ("tiny-a", "tiny-b", "tiny-a"):
        answer = client.done("chat", router, model, messages=messages, tokens=8)
        assert answer["model"] == model
        assert len(answer["text"].split()) == 8
        assert running(router) == {model}
        messages = [*messages, {"role": "assistant", "content": answer["text"]}, {"role": "user", "content": "go on"}]


def test_it_streams_from_one_model_after_the_other(client: Client, router: Router) -> None:  # B-S1
    for model in ("tiny-b", "tiny-a", "tiny-b"):
        pieces = client.done("stream", router, model, tokens=8)
        assert len(pieces) > 1
        assert len("".join(pieces).split()) == 8
        assert running(router) == {model}


def test_leaving_a_stream_frees_its_model(client: Client, router: Router) -> None:  # B-S2
    client.done("leave", router, "endless", tokens=1_000_000)  # minutes of work
    until(lambda: not any(slot["is_processing"] for slot in slots(router, "endless")))
    assert running(router) == {"endless"}
    assert client.done("chat", router, "tiny-b", tokens=4)["model"] == "tiny-b", "which needs the room of the other"


def test_an_unknown_model_is_its_not_found_error(client: Client, router: Router) -> None:  # B-C1
    for do in ("chat", "stream"):
        answer = client.ask(do, router, "tiny-aa", tokens=4)
        assert (answer["error"], answer["status"]) == client.kind.error
        assert "tiny-a" in answer["message"].replace("tiny-aa", ""), "the nearest name"


def test_it_can_offer_tools(client: Client, router: Router) -> None:
    assert client.done("chat", router, "tiny-a", tokens=4, tools=TOOLS)["text"]


@pytest.mark.parametrize("client", CALLING, indirect=True)
def test_it_gets_tool_calls_whole_and_streamed(client: Client, caller: Router) -> None:
    call = {"name": "rain", "arguments": {"today": True}}
    answer = client.done("call", caller, "tiny-a", tools=TOOLS)
    assert (answer["whole"], answer["streamed"]) == ([call], [call])
    assert answer["text"].startswith("one two")


@pytest.mark.parametrize("client", SHAPING, indirect=True)
def test_its_answer_matches_a_schema(client: Client, router: Router) -> None:
    assert client.done("shape", router, "plain", schema=TODAY)["today"] in (True, False)


@pytest.mark.parametrize("client", EMBEDDING, indirect=True)
def test_it_embeds_with_one_model_after_the_other(client: Client, router: Router) -> None:  # B-S1
    one, two, again = (
        client.done("embed", router, model, texts=["one", "two"]) for model in ("tiny-a", "tiny-b", "tiny-a")
    )
    assert [len(vector) for vector in one + two] == [64, 64, 96, 96]
    assert [pytest.approx(vector, abs=1e-4) for vector in one] == again
    assert one != two


def running(router: Router) -> set[str]:
    return {name for name, model in router.listing().items() if model["status"]["value"] != "unloaded"}


def slots(router: Router, model: str) -> list[dict[str, Any]]:
    return list(router.client.get("/slots", params={"model": model}).json())
