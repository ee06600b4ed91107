"""Whatever happens to a model's process, and at whatever moment, each client gets one well-formed end.

A table of moments and of what happens then. In each row clients of all APIs wait at once, with and without a stream,
while a bystander's stream goes on. In the end every model serves again, and no request is left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import Starter
from tests.processes import suspend
from tests.routers import FAKE, Router, alias
from tests.waiting import PATIENCE_S, until

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
PROMPT = {"prompt": "hi"}
INPUT = {"input": "hi"}
# Path, body. A stream is asked for by `stream`, which Ollama's API has by default.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat stream": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "completions": ("/v1/completions", PROMPT),
    "completions stream": ("/v1/completions", {**PROMPT, "stream": True}),
    "native": ("/completion", PROMPT),
    "tokenize": ("/tokenize", {"content": "hi"}),
    "embeddings": ("/v1/embeddings", INPUT),
    "short embeddings": ("/v1/embeddings", {**INPUT, "dimensions": 1}),
    "responses": ("/v1/responses", INPUT),
    "responses stream": ("/v1/responses", {**INPUT, "stream": True}),
    "messages": ("/v1/messages", {**CHAT, "max_tokens": 20}),
    "messages stream": ("/v1/messages", {**CHAT, "max_tokens": 20, "stream": True}),
    "ollama chat": ("/api/chat", {**CHAT, "stream": False}),
    "ollama chat stream": ("/api/chat", CHAT),
    "ollama generate": ("/api/generate", {**PROMPT, "stream": False}),
    "ollama generate stream": ("/api/generate", PROMPT),
    "ollama embed": ("/api/embed", INPUT),
}
STREAMS = [way for way in WAYS if way.endswith("stream")]
# Their child answers at once, whatever it is told about the pace of its streams.
SHORT = ["native", "tokenize", "embeddings", "short embeddings", "ollama embed"]


# The fake engine's answers end at their token limit.
RESPONSES_ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


@dataclass
class Client:
    """One request, in a thread. `begun` is set with the first bytes of its answer."""

    way: str
    begun: threading.Event = field(default_factory=threading.Event)
    status: int = 0
    body: bytes = b""

    def ask(self, client: httpx.Client, model: str) -> Client:
        path, body = WAYS[self.way]
        with client.stream("POST", path, json={"model": model, **body}) as response:
            self.status = response.status_code
            for part in response.iter_raw():  # raises for an answer that was cut off
                self.begun.set()
                self.body += part
        return self

    @property
    def has_failed(self) -> bool:
        """Whether the end is an error; fails if it is no end at all."""
        if self.status >= 400:
            return bool(self._error(json.loads(self.body)))
        assert self.status == 200
        if self.way not in STREAMS:
            answer = json.loads(self.body)
            assert "error" not in answer or answer["error"] is None
            return False
        return self._stream_has_failed()

    def _error(self, answer: dict[str, Any]) -> str:
        """The message of an error in the shape of its API."""
        error = answer["error"]
        if self.way.startswith("ollama"):
            assert answer.keys() == {"error"}
            return str(error)
        if self.way.startswith("messages"):
            assert answer["type"] == "error"
            assert error.keys() == {"type", "message"}
        else:
            assert error.keys() >= {"code", "message", "type"}
        return str(error["message"])

    def _stream_has_failed(self) -> bool:
        if self.way.startswith("ollama"):
            lines = [json.loads(line) for line in self.body.splitlines()]
            assert all("error" not in line and not line["done"] for line in lines[:-1])
            return bool("error" in lines[-1] and self._error(lines[-1])) or not lines[-1]["done"]
        assert self.body.endswith(b"\n\n")
        events = [line[6:] for line in self.body.decode().splitlines() if line.startswith("data: ")]
        last = events[-1]
        if self.way.startswith("messages"):
            kinds = [json.loads(event)["type"] for event in events]
            assert sum(kind in ("message_stop", "error") for kind in kinds) == 1
            return kinds[-1] == "error" and bool(self._error(json.loads(last)))
        if self.way.startswith("responses"):
            kinds = [json.loads(event)["type"] for event in events]
            ends = [kind for kind in kinds if kind in RESPONSES_ENDS]
            assert ends in (["response.incomplete"], ["response.failed", "error"])  # a failure is told in both ways
            return "error" in ends
        assert events.count("[DONE]") + sum('"error"' in event for event in events) == 1
        return last != "[DONE]" and bool(self._error(json.loads(last)))


class Stage:
    """A router over two models that a row of the table plays with, and a bystander."""

    def __init__(self, router: Router, pool: ThreadPoolExecutor) -> None:
        self.router, self.pool = router, pool
        self.clients: list[Client] = []
        self.ends: list[tuple[str, Future[Client]]] = []

    def ask(self, model: str, *ways: str) -> list[Client]:
        asked = [Client(way) for way in ways]
        self.clients += asked
        self.ends += [(model, self.pool.submit(client.ask, self.router.client, model)) for client in asked]
        return asked

    def until_active(self, model: str, count: int) -> None:
        self._until("requests_active", model, count)

    def until_waiting(self, model: str, count: int) -> None:
        self._until("requests_waiting", model, count)

    def _until(self, name: str, model: str, count: int) -> None:
        """So many requests are counted there. On a busy machine the first may have ended when the last one comes."""
        until(lambda: self.router.figure(name, model) + self.ended(model) >= count)

    def ended(self, model: str) -> int:
        return sum(end.done() for asked, end in self.ends if asked == model)

    def child(self, model: str) -> psutil.Process:
        def find() -> psutil.Process | None:
            found = [child for child in self.router.children() if alias(child) == model]
            return found[0] if found else None

        return until(find)

    # Moments. Each returns when it has come, with the clients of all APIs in it.

    def queued(self) -> None:
        """`blocker` is busy, and all wait for `model`."""
        self.ask("blocker", "chat stream", "messages stream")
        self.until_active("blocker", 2)
        self.ask("model", *WAYS)
        self.until_waiting("model", len(WAYS))

    def draining(self) -> None:
        """All requests run on `model`, and it is closed for a request for another one."""
        self.streaming()
        self.ask("blocker", "tokenize")
        self.until_waiting("blocker", 1)
        self.ask("model", "embeddings")
        self.until_waiting("model", 1)

    def loading(self) -> None:
        self.ask("model", *WAYS)
        until(lambda: self.router.status("model") == "loading")
        self.until_waiting("model", len(WAYS))

    def computing(self) -> None:
        """The process has all requests, and none has an answer yet."""
        self.ask("model", *WAYS)
        self.until_active("model", len(WAYS))
        # A request that has its lease and was not sent yet would be sent to the next process.
        listening = 1
        until(lambda: len(self.child("model").net_connections("unix")) - listening + self.ended("model") >= len(WAYS))

    def streaming(self) -> None:
        """Every stream has begun."""
        ways = [way for way in WAYS if way not in SHORT]
        asked = self.ask("model", *ways)
        until(lambda: all(client.begun.is_set() for client in asked if client.way in STREAMS))
        self.until_active("model", len(ways))

    def stopping(self) -> None:
        """The process of `model` is told to end, and takes its time; all wait for the next one."""
        self.router.client.post("/v1/chat/completions", json={"model": "model", **CHAT, "max_tokens": 1})
        self.router.client.post("/models/unload", json={"model": "model"})
        self.ask("model", *WAYS)
        self.until_waiting("model", len(WAYS))

    def asleep(self) -> None:
        """The process of `model` has freed its memory, and hangs as it is woken."""
        self.router.client.post("/models/load", json={"model": "model"})
        until(lambda: self.router.status("model") == "sleeping")
        suspend(self.child("model").pid)
        self.ask("model", *WAYS)
        self.until_active("model", len(WAYS))

    # What happens

    def kill(self, model: str = "model") -> None:
        os.kill(self.child(model).pid, signal.SIGKILL)

    def kill_each(self) -> None:
        """The next process too: a load that was killed is tried once more, and so is a request that was just sent."""

        def kill() -> bool:
            for child in self.router.sample():
                with contextlib.suppress(psutil.Error):
                    if alias(child) == "model":
                        child.kill()
            return self.ended("model") == sum(model == "model" for model, _ in self.ends)

        until(kill)

    def hang(self, model: str = "model") -> None:
        suspend(self.child(model).pid)

    def unload(self, model: str = "model") -> None:
        assert self.router.client.post("/models/unload", json={"model": model, "force": True}).is_success

    def lose_socket(self) -> None:
        Path(next(word for word in self.child("model").cmdline() if word.endswith(".sock"))).unlink()

    def kill_blocker(self) -> None:
        self.kill("blocker")

    def hang_blocker(self) -> None:
        self.hang("blocker")

    def unload_blocker(self) -> None:
        self.unload("blocker")

    def nothing(self) -> None:
        """Time goes by."""


@dataclass(frozen=True)
class Row:
    """At this moment this happens. Then the clients of `model` have all failed, or have all been served; None where
    either will do. `environ` is the fake engine's, for `model` alone."""

    moment: Callable[[Stage], None]
    event: Callable[[Stage], None]
    fail: bool | None
    flags: tuple[str, ...] = ()
    environ: tuple[str, ...] = ()


ONE = ("--models-max", "1", "--models-drain-grace", "0")
HEALTH, DRAIN = "--models-health-timeout", "--models-drain-timeout"
SLOW, LATE = ("CHUNK_SECONDS=2", "TOKENS=1000"), ("FIRST_SECONDS=600",)
BRIEF = ("CHUNK_SECONDS=0.1", "TOKENS=20")
LOADS, STAYS = ("LOAD_SECONDS=600",), ("IGNORE_EXIT=1", "IGNORE_SIGTERM=1")
ROWS = {
    "queued, the time is over": Row(Stage.queued, Stage.nothing, True, (*ONE, "--models-queue-timeout", "1")),
    "queued, unloaded": Row(Stage.queued, Stage.unload, True, ONE),
    "queued, the other one is killed": Row(Stage.queued, Stage.kill_blocker, False, ONE),
    "queued, the other one hangs": Row(Stage.queued, Stage.hang_blocker, False, (*ONE, HEALTH, "1")),
    "queued, the other one is unloaded": Row(Stage.queued, Stage.unload_blocker, False, ONE),
    "queued, the other one is cut": Row(Stage.queued, Stage.nothing, False, (*ONE, DRAIN, "1")),
    "draining, killed": Row(Stage.draining, Stage.kill_each, None, ONE, SLOW),
    "draining, hangs": Row(Stage.draining, Stage.hang, None, (*ONE, HEALTH, "1"), SLOW),
    "draining, unloaded": Row(Stage.draining, Stage.unload, None, ONE, SLOW),
    "draining, cut": Row(Stage.draining, Stage.nothing, None, (*ONE, DRAIN, "1"), SLOW),
    "loading, killed": Row(Stage.loading, Stage.kill_each, True, (), LOADS),
    "loading, hangs": Row(Stage.loading, Stage.hang, True, ("--models-load-timeout", "4"), LOADS),
    "loading, unloaded": Row(Stage.loading, Stage.unload, True, (), LOADS),
    "computing, killed": Row(Stage.computing, Stage.kill_each, True, (), LATE),
    "computing, hangs": Row(Stage.computing, Stage.hang, True, (HEALTH, "1"), LATE),
    "computing, unloaded": Row(Stage.computing, Stage.unload, True, (), LATE),
    "computing, its socket is lost": Row(Stage.computing, Stage.lose_socket, False, (), ("FIRST_SECONDS=8", *BRIEF)),
    "streaming, killed": Row(Stage.streaming, Stage.kill_each, True, (), SLOW),
    "streaming, hangs": Row(Stage.streaming, Stage.hang, True, (HEALTH, "1"), SLOW),
    "streaming, unloaded": Row(Stage.streaming, Stage.unload, True, (), SLOW),
    "streaming, its socket is lost": Row(Stage.streaming, Stage.lose_socket, False, (), BRIEF),
    "stopping, killed": Row(Stage.stopping, Stage.kill, False, (), STAYS),
    "stopping, hangs": Row(Stage.stopping, Stage.hang, False, (), STAYS),
    "stopping, unloaded": Row(Stage.stopping, Stage.unload, True, (), STAYS),
    "asleep, hangs": Row(Stage.asleep, Stage.nothing, True, (HEALTH, "1"), ("SLEEP_IDLE_SECONDS=0.05",)),
}


def preset(file: Path, environ: tuple[str, ...] = (), others: tuple[str, ...] = ()) -> str:
    own = {"model": environ, "blocker": others, "bystander": others}
    sections = [f"[{name}]\nmodel = {file}\nstop-timeout = 2\n" for name in own]
    lines = ["".join(f"env.FAKE_{word}\n".replace("=", " = ") for word in words) for words in own.values()]
    return "".join(map("".join, zip(sections, lines, strict=True)))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_each_client_gets_one_well_formed_end(
    routers: Starter, fake: str, tiny_models: Path, tmp_path: Path, row: Row
) -> None:  # B-S2 B-S19 B-S20
    file, models = tiny_models / "tiny-a.gguf", tmp_path / "models.ini"
    models.write_text(preset(file, row.environ, SLOW))
    router = routers("--engine", fake, "--models-preset", str(models), "--no-models-preset-watch", *row.flags)
    with ExitStack() as stack:
        bystander = None
        if "--models-max" not in row.flags:
            bystander = stack.enter_context(router.stream("bystander", 1000))
            next(bystander)
        stage = Stage(router, stack.enter_context(ThreadPoolExecutor(2 * len(WAYS))))
        stack.callback(router.kill)  # else a failure would wait for all answers
        row.moment(stage)
        row.event(stage)
        clients = [end.result(PATIENCE_S) for model, end in stage.ends if model == "model"]
        if bystander:
            next(bystander)  # it never noticed
        if router.status("blocker") != "unloaded":
            stage.unload("blocker")
        for _, end in stage.ends:
            end.result(PATIENCE_S)
        ends = {client.way: client.has_failed for client in [*clients, *stage.clients]}
        assert row.fail is None or {ends[client.way] for client in clients} == {row.fail}, ends
        models.write_text(preset(file))
        assert router.client.post("/models/reload").is_success
        for model in ("model", "blocker"):
            assert router.chat(model).status_code == 200
            assert [router.figure(f"requests_{kind}", model) for kind in ("active", "waiting")] == [0, 0]
        assert "defect" not in router.log


@pytest.mark.parametrize("spins", ["0", "1"], ids=["it answers", "it only computes"])
def test_a_child_that_computes_is_left_alone(routers: Starter, tiny_models: Path, spins: str) -> None:  # B-S20
    """For several times as long as one without life would be."""
    environ = {"FAKE_FIRST_SECONDS": "5", "FAKE_SPIN": spins, **({"FAKE_DEAF": "1"} if spins == "1" else {})}
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), HEALTH, "1.5", **environ)
    assert router.chat("tiny-a").status_code == 200
    assert router.loads() == 1


def test_the_next_model_starts_while_the_last_one_still_ends(routers: Starter, tiny_models: Path) -> None:  # B-S21
    environ = {"FAKE_IGNORE_EXIT": "1", "FAKE_IGNORE_SIGTERM": "1"}
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--models-max", "1", **environ)
    assert router.chat("tiny-a").status_code == 200
    before = router.children()
    assert router.chat("tiny-b").status_code == 200
    assert before[0] in router.children(), "it has ten seconds for its end"
    assert len(router.children()) == 2


def test_a_young_model_stays(routers: Starter, tiny_models: Path, tmp_path: Path) -> None:  # B-S22
    file = tiny_models / "tiny-a.gguf"
    (tmp_path / "models.ini").write_text(f"[young]\nmodel = {file}\nmin-loaded = 600\n[other]\nmodel = {file}\n")
    flags = ("--models-preset", str(tmp_path / "models.ini"), *ONE, "--models-queue-timeout", "2")
    router = routers("--engine", FAKE, *flags)
    assert router.chat("young").status_code == 200
    sent = time.monotonic()
    assert router.chat("other").status_code == 200
    assert time.monotonic() - sent >= 1, "it went when the wait was nearly over"
    assert router.chat("young").status_code == 200, "the other one has no such time"


def test_a_refusal_names_who_is_in_the_way(routers: Starter, tiny_models: Path) -> None:  # B-S19
    flags = ("--models-dir", str(tiny_models), *ONE, "--models-queue-timeout", "1")
    router = routers("--engine", FAKE, *flags, FAKE_CHUNK_SECONDS="0.2", FAKE_TOKENS="1000")
    with router.stream("tiny-a", 1000) as events:
        next(events)
        answer = router.chat("tiny-b")
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert "still waits for tiny-a to finish 1 request; tiny-a has been busy for" in answer.json()["error"]["message"]
