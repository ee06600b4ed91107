"""Loads with settings, and presets that are read again, on the real engines: what runs is what was asked for, and never
twice. The process table is watched all the time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import signal
import stat
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

from router import demo
from router.pool.settings_patch import SPECULATIVE
from tests.conftest import Starter
from tests.processes import Sampler
from tests.routers import ENGINES, FAKE, Events, Router, chat, start
from tests.shapes import PROJECTOR
from tests.waiting import PATIENCE_S, until

CONTEXT = 8192  # what the models were trained with
MODELS = 40
STORM = 200  # answers
# Loads that fail, each in another way: a refused argument, a bad template, an abort, a missing file.
BAD: tuple[dict[str, Any], ...] = (
    {"extra_args": ["--cache-type-k-draft", "nonsense"]},
    {"chat_template": "{% for %}"},
    {"extra_args": ["--grammar", "root ::= (("]},
    {"extra_args": ["--lora", "/nowhere"]},
)


class Child(NamedTuple):
    """An engine's process, as the process table shows it."""

    pid: int
    started: float
    command: tuple[str, ...]

    @property
    def model(self) -> str:
        return self.command[self.command.index("--alias") + 1]

    @property
    def args(self) -> list[str]:
        """The model's own and those asked for, without what the router adds for each process."""
        return list(self.command[self.command.index("--model") : self.command.index("--predict")])

    @property
    def asked(self) -> list[str]:
        return self.args[self.args.index("--threads") + 2 :]

    def value_of(self, flag: str) -> str | None:
        return self.command[self.command.index(flag) + 1] if flag in self.command else None


def described(processes: Iterable[psutil.Process]) -> list[Child]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            child = Child(process.pid, process.create_time(), tuple(process.cmdline()))
            found += [child] if "--alias" in child.command else []  # a zombie has no command
    return found


def children(router: Router) -> list[Child]:
    return described(router.children())


class Table:
    """Samples a router's children until the block ends: `seen` are those of each model, in their order, and `crowds`
    the samples with two of one model."""

    def __init__(self, router: Router) -> None:
        self.seen: defaultdict[str, dict[Child, None]] = defaultdict(dict)
        self.crowds: list[list[Child]] = []
        self._router = router
        self._sampler = Sampler(self._look)

    def _look(self) -> None:
        sample = described(self._router.sample())
        for child in sample:
            self.seen[child.model][child] = None
        if len({child.model for child in sample}) < len(sample):
            self.crowds.append(sample)

    def pids(self, model: str) -> list[int]:
        """All there were until now."""
        self._sampler.settle()
        return [child.pid for child in self.seen[model]]

    def __enter__(self) -> Table:
        self._sampler.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._sampler.__exit__(*exc)
        assert self.crowds == []


class Bench:
    """A router whose models are each for one test."""

    def __init__(self, router: Router, table: Table, run_dir: Path) -> None:
        self.router, self.table, self.run_dir = router, table, run_dir

    def ask(self, model: str, **body: Any) -> httpx.Response:
        """A load that is waited for."""
        return self.router.client.post("/models/load", json={"wait": True, "model": model, **body})

    def load(self, model: str, **body: Any) -> dict[str, Any]:
        """One that goes well, and after which every place says the same as the process table."""
        answer = self.ask(model, **body)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        assert told["success"] is True
        self.check(model)
        settings = self.settings(model)
        assert {**told, **settings} == {**told, "status": "loaded"}
        return told

    def check(self, model: str) -> Child:
        """What runs is what the settings and the listing say."""
        told, child = self.settings(model), self.child(model)
        assert told["process"]["pid"] == child.pid
        assert told["process"]["started"] == pytest.approx(child.started, abs=1)
        assert told["effective"]["args"] == child.args
        assert self.router.listing()[model]["status"]["args"] == child.args
        return child

    def settings(self, model: str) -> dict[str, Any]:
        answer = self.router.client.get(f"/models/{model}/settings")
        assert answer.status_code == 200
        return dict(answer.json())

    def wishes(self, model: str) -> dict[str, Any]:
        """The settings, without what runs."""
        told = self.settings(model)
        return {"requested": told["requested"], "args": told["effective"]["args"]}

    def child(self, model: str) -> Child:
        """The one that runs."""
        (child,) = [child for child in children(self.router) if child.model == model]
        return child

    def unload(self, model: str) -> None:
        answer = self.router.client.post("/models/unload", json={"model": model})
        assert answer.status_code == 200, answer.text

    def props(self, model: str) -> dict[str, Any]:
        return dict(self.router.client.get("/props", params={"model": model}).json())

    def waiting(self, model: str) -> int:
        return self.router.figure("requests_waiting", model)

    @contextlib.contextmanager
    def busy(self, model: str, tokens: int = 1000) -> Iterator[None]:
        """A stream is running, and goes on with the end of the block: to its own end, and whole."""
        with self.router.stream(model, tokens) as events:
            next(events)
            process = psutil.Process(self.child(model).pid)
            process.suspend()
            try:
                yield
            finally:
                process.resume()
            told = events.json()
        assert told[-1]["choices"][0]["finish_reason"] == "length"
        assert sum(bool(event["choices"][0]["delta"].get("content")) for event in told) > tokens * 3 // 4


def make_models(folder: Path) -> None:
    """`m0`, `m1`, ... are the same file; `eyes` sees. Their heads are wide enough for a quantized cache."""
    (folder / "eyes").mkdir(parents=True)
    tiny = demo.write_tiny(folder / "m0.gguf", heads=2, context=CONTEXT)
    for number in range(1, MODELS):
        (folder / f"m{number}.gguf").hardlink_to(tiny)
    (folder / "eyes" / "eyes.gguf").hardlink_to(tiny)
    sizes = {"embedding_length": 64, "feed_forward_length": 128, "block_count": 1, "projection_dim": 64}
    sizes |= {"image_size": 64, "attention.head_count": 2}
    projector = replace(
        PROJECTOR,
        sizes={"D": 64, "F": 128, "Z": 16, "O": 64},
        layers=PROJECTOR.layers[:1],
        fields={**PROJECTOR.fields, **{f"vision.{key}": value for key, value in sizes.items()}},
    )
    projector.write(folder / "eyes").rename(folder / "eyes" / "mmproj-eyes.gguf")


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """Short, as unix sockets need it."""
    with tempfile.TemporaryDirectory(prefix="lr-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module", params=sorted(ENGINES))
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("reload")
    make_models(folder / "models")
    with tempfile.TemporaryDirectory(prefix="lr-") as run:
        flags = ("--engine", ENGINES[request.param](), "--models-dir", str(folder / "models"), "--threads", "1")
        allowed = ("--load-args", "any")  # some of the loads are to fail by a path
        router = start(folder / "router", *flags, *allowed, "--run-dir", run)
        with Table(router) as table:
            yield Bench(router, table, Path(run))
            assert router.stop() == 0


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    """Nothing runs before a test, and nothing is left of it."""
    yield shared
    for model, told in shared.router.listing().items():
        if told["status"]["value"] != "unloaded":
            shared.router.client.post("/models/unload", json={"model": model, "force": True})
    until(lambda: not shared.router.children())
    assert shared.table.crowds == []
    assert "Traceback" not in shared.router.log
    assert "defect" not in shared.router.log


_serial = itertools.count()


@pytest.fixture
def model() -> str:
    """One that no other test has."""
    return f"m{next(_serial) % MODELS}"


@pytest.fixture
def other() -> str:
    return f"m{next(_serial) % MODELS}"


# ---- settings


def test_the_same_settings_are_the_same_process(bench: Bench, model: str) -> None:  # B-L1
    asked = {"ctx_size": 1024, "cache_type_k": "q8_0", "n_parallel": 2}
    first = bench.load(model, **asked)
    assert first["status"] == "loaded"
    for body in (asked, {}, {"n_parallel": 2}, {"cache_type_k": "Q8_0"}):
        again = bench.load(model, **body)
        assert (again["status"], again["changed"], again["process"]) == ("already_loaded", {}, first["process"])
    assert bench.table.pids(model) == [first["process"]["pid"]]


def test_other_settings_are_another_process(bench: Bench, model: str) -> None:  # B-L1 B-L3
    old = bench.load(model, extra_args=["--top-k", "20", "--seed", 42])["process"]
    answer = bench.load(model, ctx_size=4096, cache_type_k="q8_0", cache_type_v="q8_0", n_parallel=2)
    child = bench.check(model)
    assert answer["status"] == "loaded"
    assert child.pid != old["pid"]
    assert child.asked == [
        *("--ctx-size", "4096", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0", "--parallel", "2"),
        *("--top-k", "20", "--seed", "42"),
    ]
    effective = answer["effective"]
    assert (effective["ctx_size"], effective["ctx_size_slot"], effective["n_parallel"]) == (4096, 2048, "2")
    assert (effective["cache_type_k"], effective["cache_type_v"]) == ("q8_0", "q8_0")
    props = bench.props(model)
    assert (props["default_generation_settings"]["n_ctx"], props["total_slots"]) == (2048, 2)
    assert props["default_generation_settings"]["params"]["top_k"] == 20
    assert bench.router.chat(model).status_code == 200
    assert bench.table.pids(model) == [old["pid"], child.pid]


def test_extra_arguments_over_an_unload(bench: Bench, model: str) -> None:  # B-L3
    bench.load(model, extra_args=["--top-k", "20"])
    for body, expected in (
        ({}, ["--top-k", "20"]),
        ({"extra_args": None, "ctx_size": 512}, ["--ctx-size", "512", "--top-k", "20"]),
        ({"extra_args": []}, ["--ctx-size", "512"]),
        ({}, ["--ctx-size", "512"]),
        ({"extra_args": ["--seed=-1"]}, ["--ctx-size", "512", "--seed", "-1"]),
    ):
        bench.unload(model)
        assert bench.load(model, **body)["status"] == "loaded"
        assert bench.child(model).asked == expected
    bench.unload(model)
    assert bench.router.chat(model).status_code == 200
    assert bench.check(model).asked == expected


def test_what_was_asked_is_compared(bench: Bench, model: str) -> None:  # B-L2
    """Each slot has what the model was trained with, before and after; and still it is a change."""
    first = bench.load(model, ctx_size=2 * CONTEXT)
    second = bench.load(model, ctx_size=0)
    assert second["status"] == "loaded"
    assert second["process"]["pid"] != first["process"]["pid"]
    assert second["changed"] == {"--ctx-size": [f"--ctx-size {2 * CONTEXT}", None]}
    assert first["effective"]["ctx_size_slot"] == second["effective"]["ctx_size_slot"] == CONTEXT
    assert bench.load(model, ctx_size=0)["status"] == "already_loaded"


def test_settings_stay_with_their_model(bench: Bench, model: str, other: str) -> None:  # B-L4
    """The same file, by another name that is loaded next."""
    bench.load(model, extra_args=["--top-k", "20"], ctx_size=1024, chat_template="chatml")
    bench.load(other)
    assert bench.child(other).asked == []
    assert bench.child(model).asked == ["--ctx-size", "1024", "--chat-template", "chatml", "--top-k", "20"]


def test_bare_loads_after_an_inherited_context(bench: Bench, model: str) -> None:  # B-L5 B-L9
    bench.load(model, extra_args=["-c", "1024", "--top-k", "20"])
    for _ in range(10):
        assert bench.load(model)["status"] == "already_loaded"
    with ThreadPoolExecutor(10) as pool:
        answers = [answer.json()["status"] for answer in pool.map(bench.ask, [model] * 10)]
    assert answers == ["already_loaded"] * 10
    assert len(bench.table.pids(model)) == 1
    bench.load(model, ctx_size=2048)
    assert bench.child(model).asked == ["--ctx-size", "2048", "--top-k", "20"]


# ---- one process at a time


def test_an_unload_and_parallel_loads(bench: Bench, model: str) -> None:  # B-L9
    bench.load(model)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            bench.unload(model)
            answers = [answer.json()["status"] for answer in pool.map(bench.ask, [model] * 2)]
            assert sorted(answers) == ["already_loaded", "loaded"]
        assert len(bench.table.pids(model)) == 4
        bench.unload(model)
        answers = list(pool.map(lambda size: bench.ask(model, ctx_size=size).json()["status"], (512, 1024)))
        assert answers == ["loaded", "loaded"]
    assert len(bench.table.pids(model)) == 6
    bench.check(model)


def test_streams_are_not_cut_by_other_settings(bench: Bench, model: str) -> None:  # B-L1 B-L9
    bench.load(model)
    first = bench.child(model)
    with ThreadPoolExecutor(3) as pool:
        with bench.router.stream(model, 1000) as second:
            next(second)
            with bench.busy(model):
                load = pool.submit(bench.ask, model, ctx_size=4096)
                until(lambda: bench.waiting(model) == 1)
                late = pool.submit(bench.router.chat, model)
                until(lambda: bench.waiting(model) == 2)
                assert bench.child(model) == first
                assert not load.done()
            assert second.json()[-1]["choices"][0]["finish_reason"] == "length"
        assert load.result().json()["status"] == "loaded"
        assert late.result().status_code == 200
    assert bench.check(model).asked == ["--ctx-size", "4096"]
    assert len(bench.table.pids(model)) == 2


def test_an_unload_cancels_the_loads_before_it(bench: Bench, model: str) -> None:  # B-L8 B-L10
    bench.load(model, ctx_size=1024)
    before = bench.wishes(model)
    with ThreadPoolExecutor(3) as pool:
        with bench.busy(model):
            loads = [pool.submit(bench.ask, model, ctx_size=size) for size in (2048, 4096)]
            until(lambda: bench.waiting(model) == 1)
            late = pool.submit(bench.router.chat, model)
            until(lambda: bench.waiting(model) == 2)
            bench.unload(model)
            for answer in (*(load.result() for load in loads), late.result()):
                assert (answer.status_code, answer.json()["error"]["type"]) == (503, "unavailable_error")
        until(lambda: bench.router.status(model) == "unloaded")
    assert bench.wishes(model) == before
    assert len(bench.table.pids(model)) == 1


@pytest.mark.parametrize("bad", BAD, ids=[next(iter(body.values()))[0].strip("-") for body in BAD])
def test_a_failed_load_changes_nothing(bench: Bench, model: str, bad: Mapping[str, Any]) -> None:  # B-L8
    """Whoever waits meanwhile is served with what held before."""
    bench.load(model, ctx_size=1024, extra_args=["--top-k", "20"])
    before, first = bench.wishes(model), bench.child(model)
    with ThreadPoolExecutor(2) as pool:
        with bench.busy(model):
            load = pool.submit(bench.ask, model, **bad)
            until(lambda: bench.waiting(model) == 1)
            late = pool.submit(bench.router.chat, model)
            until(lambda: bench.waiting(model) == 2)
        assert late.result().status_code == 200
        answer = load.result()
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "could not be loaded" in answer.json()["error"]["message"]
    assert bench.wishes(model) == before
    child = bench.check(model)
    assert (child.args, child.pid != first.pid) == (first.args, True)
    assert bench.load(model)["status"] == "already_loaded"


def test_a_crash_while_settings_are_tried(routers: Starter, tiny_models: Path, tmp_path: Path) -> None:  # B-L8 B-L9
    program = tmp_path / "llama-server"
    fake = f"{sys.executable} -IS {FAKE}"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in\n*--seed*) exec {fake} --load-seconds 0.5 --fail \'out of luck\' "$@";;\nesac\n'
        f'exec {fake} "$@"\n'
    )
    program.chmod(0o755)
    router = routers("--engine", str(program), "--models-dir", str(tiny_models))
    with Table(router), ThreadPoolExecutor(1) as pool:
        assert load(router, "tiny-a", extra_args=["--top-k", "20"]).status_code == 200
        trial = pool.submit(load, router, "tiny-a", ctx_size=1024, extra_args=["--seed", "1"])
        until(lambda: router.status("tiny-a") == "loading")
        assert router.chat("tiny-a").status_code == 200
        answer = trial.result()
        assert (answer.status_code, "out of luck" in answer.json()["error"]["message"]) == (500, True)
        told = router.client.get("/models/tiny-a/settings").json()
        assert (told["requested"]["ctx_size"], told["requested"]["extra_args"]) == (None, ["--top-k", "20"])
        (child,) = children(router)
        assert child.value_of("--top-k") == "20"
        assert child.pid == told["process"]["pid"]
        assert router.loads("tiny-a") == 3


def load(router: Router, model: str, **body: Any) -> httpx.Response:
    return router.client.post("/models/load", json={"wait": True, "model": model, **body})


def test_a_storm(bench: Bench, model: str, other: str) -> None:  # B-L8 B-L9
    """Eight clients load, unload and chat; some of their settings are bad."""
    good: list[dict[str, Any]] = [{}, {"n_parallel": 1}, {"n_parallel": 2}, {"extra_args": []}, {"ctx_size": 0}]
    good += [{"ctx_size": 1024}, {"ctx_size": 1024, "cache_type_k": "q8_0"}, {"extra_args": ["--top-k", "20"]}]
    answers = Counter[str]()

    def client(seed: int) -> None:
        random = Random(seed)
        while sum(answers.values()) < STORM:
            name, kind = (
                random.choice((model, other)),
                random.choices(("load", "chat", "unload", "bad"), (5, 9, 1, 1))[0],
            )
            if kind == "chat":
                answer = bench.router.chat(name, random.choice((1, 50)))
            elif kind == "unload":
                answer = bench.router.client.post("/models/unload", json={"model": name})
            else:
                answer = bench.ask(name, **random.choice(good if kind == "load" else BAD[:2]))
            answers[told(kind, answer)] += 1

    def told(kind: str, answer: httpx.Response) -> str:
        error = answer.json().get("error", {})
        match kind, answer.status_code, error.get("type"):
            case _, 200, None:
                return kind
            case "unload", 400, "invalid_request_error" if "is not running" in error["message"]:
                return "idle"
            case "load" | "chat" | "bad", 503, "unavailable_error" if "unloaded" in error["message"]:
                return "cancelled"
            case "bad", 500, "server_error" if "could not be loaded" in error["message"]:
                return "failed"
        return f"{kind}: {answer.status_code} {answer.text}"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client, range(8)))
    assert answers.keys() <= {"load", "chat", "unload", "idle", "cancelled", "failed"}, answers
    assert answers["load"] > 10
    assert answers["chat"] > 10
    for name in (model, other):
        if bench.settings(name)["process"]:
            bench.check(name)
        bench.load(name)
    assert len(bench.table.pids(model)) > 3
    assert bench.table.crowds == []


# ---- what cannot be asked


def test_flags_of_the_router(bench: Bench, model: str) -> None:  # B-L7
    for word in (
        *("--host=::", "--port=1", "--api-key=k", "--ssl-key-file=f", "--alias=a", "-a=a", "--models-max=9"),
        *("--ui", "--no-ui", "--webui", "--no-webui", "--webui-config={}", "--model=m", "-m=m", "-hf=u/r"),
    ):
        name, _, value = word.partition("=")
        for extra in ([name, value] if value else [name], [word] if word.startswith("--") else [name, value]):
            answer = bench.ask(model, extra_args=["--top-k", "20", *extra])
            assert answer.status_code == 400, answer.text
            assert f" {name} " in answer.json()["error"]["message"]
    assert bench.settings(model)["requested"]["extra_args"] == []
    assert bench.table.pids(model) == []


def test_malformed_bodies(bench: Bench, model: str) -> None:
    def post(content: str) -> httpx.Response:
        return bench.router.client.post("/models/load", content=content.encode())

    for content in ("", "{", "[]", "5", "{}", '{"model": 5}', '{"model": ""}', '{"model": "m0", "x\\ud800": 1}'):
        assert (content, post(content).status_code) == (content, 400)
    for name, value in (
        *(("ctx_size", "-1"), ("ctx_size", "1e3"), ("ctx_size", '"8k"'), ("ctx_size", "[]"), ("ctx_size", "1" * 99)),
        *(("n_parallel", "true"), ("cache_type_k", '"q9"'), ("cache_type_v", "5"), ("speculative_type", '"magic"')),
        *(("chat_template", "{}"), ("chat_template", '"\\u0000"'), ("extra_args", '"-c 5"'), ("extra_args", "[[]]")),
        *(("extra_args", "[null]"), ("extra_args", '["--tpo-k", "20"]'), ("extra_args", '["--top-k"]')),
        *(("wait", '"yes"'), ("context", "5")),
    ):
        answer = post(f'{{"model": "{model}", "{name}": {value}}}')
        assert (name, value, answer.status_code) == (name, value, 400)
        message = answer.json()["error"]["message"]
        assert name in message or "--top-k" in message
        assert len(message) < 500
    assert post('{"model": "nowhere"}').status_code == 404
    assert bench.table.pids(model) == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"ctx_size": 2**31 - 1}, 507, "does not fit on this machine"),
        ({"n_parallel": 2**31 - 1}, 507, "does not fit on this machine"),
        ({"extra_args": ["--top-k", "9" * 5000]}, 500, "refused"),
    ],
    ids=["context", "slots", "digits"],
)
def test_numbers_out_of_all_bounds(bench: Bench, model: str, body: dict[str, Any], status: int, words: str) -> None:
    bench.load(model)
    answer = bench.ask(model, **body)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]
    assert bench.router.chat(model).status_code == 200
    assert bench.check(model).asked == []


# ---- templates and speculation


def templates(run_dir: Path) -> list[Path]:
    return list(run_dir.glob("**/*.jinja"))


def prompt(bench: Bench, model: str) -> str:
    answer = bench.router.client.post("/apply-template", json=chat(model))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt"])


def test_a_template_is_a_private_file(bench: Bench, model: str) -> None:  # B-L12
    bench.load(model)
    own = prompt(bench, model)
    bench.load(model, chat_template="{% for message in messages %}<{{ message.role }}>«ü»{% endfor %}")
    assert prompt(bench, model) == "<user>«ü»"
    (file,) = templates(bench.run_dir)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert bench.child(model).value_of("--chat-template-file") == str(file)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    bench.load(model, chat_template="chatml")
    assert "<|im_start|>user\nhi<|im_end|>" in prompt(bench, model)
    assert templates(bench.run_dir) == []
    bench.load(model, chat_template=None)
    assert prompt(bench, model) == own
    bench.load(model, chat_template="{{ 'x' }}")
    assert len(templates(bench.run_dir)) == 1
    psutil.Process(bench.child(model).pid).kill()
    until(lambda: not templates(bench.run_dir))
    assert prompt(bench, model) == "x"
    assert bench.ask(model, chat_template="{% for %}").status_code == 500
    # The one before comes back, in its own time.
    until(lambda: [file.read_text() for file in templates(bench.run_dir)] in ([], ["{{ 'x' }}"]))
    assert prompt(bench, model) == "x"


def test_a_killed_router_leaves_no_template(
    engine: str, routers: Starter, tiny_models: Path, run_dir: Path
) -> None:  # B-L12
    flags = ("--engine", engine, "--models-dir", str(tiny_models), "--run-dir", str(run_dir), "--threads", "1")
    router = routers(*flags)
    assert load(router, "tiny-a", chat_template="{{ 'secret' }}").status_code == 200
    orphans = router.children()
    router.kill()
    assert len(templates(run_dir)) == 1
    routers(*flags)
    assert templates(run_dir) == []
    assert not psutil.wait_procs(orphans, timeout=5)[1]


@pytest.mark.parametrize("kind", [kind for kind in SPECULATIVE if not kind.startswith("draft-")])
def test_speculation_starts(bench: Bench, model: str, kind: str) -> None:  # B-L1 B-L6
    answer = bench.load(model, speculative_type=kind, extra_args=["--top-k", "20"])
    assert answer["effective"]["speculative_type"] == kind
    assert bench.child(model).asked == [*SPECULATIVE[kind].split(), "--top-k", "20"]
    assert bench.router.chat(model, 40).json()["usage"]["completion_tokens"] == 40


def test_speculation_of_a_model_that_sees(bench: Bench) -> None:  # B-L11
    first = bench.load("eyes")
    assert bench.child("eyes").value_of("--mmproj")
    for kind in ("ngram-mod", "default", "off", "", None):
        answer = bench.load("eyes", speculative_type=kind)
        assert (answer["status"], answer["process"]) == ("already_loaded", first["process"])
        assert answer["effective"]["speculative_type"] == "off"
    assert len(bench.table.pids("eyes")) == 1


# ---- presets


class Presets:
    """A preset file with models that stay and one that changes each time it is written."""

    def __init__(self, path: Path, models: Path) -> None:
        self.path = path
        self._models = models

    def write(self, seed: int, *more: str, rest: str = "") -> int:
        """Whole at once; how many lines there are."""
        sections = {"steady-a": "tiny-a", "steady-b": "tiny-b", "shifty": "tiny-c", **dict.fromkeys(more, "tiny-a")}
        lines = [f"[{name}]\nmodel = {self._models / model}.gguf\n" for name, model in sections.items()]
        text = "threads = 1\n" + "".join(lines).replace("[shifty]\n", f"[shifty]\nseed = {seed}\n") + rest
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)
        return text.count("\n")


class Traffic:
    """Chats and streams from eight clients, until the end of the block; it is not to be disturbed."""

    def __init__(self, router: Router, models: tuple[str, ...]) -> None:
        self.answers: Counter[str] = Counter()
        self._router, self._models = router, models
        self._enough = threading.Event()
        self._pool = ThreadPoolExecutor(8)
        self._clients = [self._pool.submit(self._client, Random(number)) for number in range(8)]

    def _client(self, random: Random) -> None:
        while not self._enough.is_set() or sum(self.answers.values()) < 200:
            model, tokens = random.choice(self._models), random.choice((1, 8, 64))
            if random.random() < 0.5:
                answer = self._router.chat(model, tokens)
                good = answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == tokens
            else:
                with self._router.stream(model, tokens) as events:
                    good = events.json()[-1]["choices"][0].get("finish_reason") == "length"
            self.answers["good" if good else "bad"] += 1

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *exc: object) -> None:
        self._enough.set()
        for client in self._clients:
            client.result()
        self._pool.shutdown()


@contextlib.contextmanager
def news(router: Router) -> Iterator[list[dict[str, Any]]]:
    """What `/models/sse` tells of reloads, as it comes; the router is stopped at the end of the block."""
    found: list[dict[str, Any]] = []
    with httpx.stream("GET", f"{router.url}/models/sse", timeout=PATIENCE_S) as response, ThreadPoolExecutor(1) as pool:
        events = Events(response)

        def listen() -> None:
            for event in map(json.loads, events):
                if event["event"] == "models_reload":
                    found.append(event["data"])

        listening = pool.submit(listen)
        try:
            yield found
        finally:
            router.stop()
            listening.result()


def reread(router: Router, how: int) -> httpx.Response | None:
    """In one of the three ways, of which a signal has no answer."""
    if how % 3 == 0:
        return router.client.post("/models/reload")
    if how % 3 == 1:
        return router.client.get("/models", params={"reload": 1})
    router.process.send_signal(signal.SIGHUP)
    return None


def test_presets_are_read_again_under_traffic(
    engine: str, routers: Starter, tiny_models: Path, tmp_path: Path
) -> None:  # B-L13
    presets, steady = Presets(tmp_path / "presets.ini", tiny_models), ("steady-a", "steady-b")
    presets.write(0)
    flags = ("--models-preset", str(presets.path), "--no-models-preset-watch", "--models-max", "0")
    router = routers("--engine", engine, *flags)
    for model in (*steady, "shifty"):
        assert router.chat(model).status_code == 200
    before = {child.model: child for child in children(router)}
    with news(router) as told, Table(router) as table:
        with Traffic(router, steady) as traffic:
            for number in range(1, 21):
                more = ["extra"] if number % 2 else []
                presets.write(number, *more)
                answer = reread(router, number)
                until(lambda: len(told) == number)  # noqa: B023
                gone = [] if more else ["extra"]
                assert told[-1] == {"added": more, "changed": ["shifty"], "removed": gone, "kept": list(steady)}
                if answer:
                    said = answer.json()
                    assert said.get("reload", said) == {**({} if "data" in said else {"success": True}), **told[-1]}
                if number % 4 == 0:  # in between it stops, or waits for whoever asks for it
                    assert router.chat("shifty").status_code == 200
                    (child,) = [child for child in children(router) if child.model == "shifty"]
                    assert child.value_of("--seed") == str(number)
            bad = presets.write(21, rest="[bad]\nmodel = x.gguf\nno-such-key = 1\n")
            for how in (0, 1):
                answer = reread(router, how)
                assert answer
                assert answer.status_code == 400
                message = answer.json()["error"]["message"]
                assert message.startswith(f"nothing was changed: {presets.path}:{bad}: unknown key 'no-such-key'")
            reread(router, 2)
            until(lambda: "the presets are left as they are" in router.log)
        assert traffic.answers.keys() == {"good"}
        assert len(told) == 20
        assert len(re.findall(r"catalog: .* 1 changed \(shifty\); .*; 2 kept \(steady-a, steady-b\)", router.log)) == 20
        assert router.listing().keys() == {*steady, "shifty"}
        for model in steady:
            assert list(table.seen[model]) == [before[model]]
        assert router.chat("shifty").status_code == 200  # as before the bad file
        assert [child.value_of("--seed") for child in table.seen["shifty"]][-1] == "20"
    assert "Traceback" not in router.log


def test_presets_are_read_again_when_they_were_written(
    routers: Starter, tiny_models: Path, tmp_path: Path
) -> None:  # B-L13
    """Without any request, and not before they are whole."""
    presets = Presets(tmp_path / "presets.ini", tiny_models)
    presets.write(0)
    router = routers("--engine", FAKE, "--models-preset", str(presets.path))
    assert router.chat("steady-a").status_code == 200
    (child,) = children(router)
    with news(router) as told, presets.path.open("a") as file:
        file.write("[new")
        file.flush()
        until(lambda: "a section is written [name]" in router.log)
        assert "the presets are left as they are" in router.log
        file.write(f"]\nmodel = {tiny_models}/tiny-b.gguf\n")
        file.flush()
        until(lambda: told)
        assert told == [{"added": ["new"], "changed": [], "removed": [], "kept": ["steady-a", "steady-b", "shifty"]}]
        assert router.chat("new").status_code == 200
        assert child in children(router)
