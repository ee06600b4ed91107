"""llama-server's router mode and this router, side by side: same command line, same presets, same requests.

A client of llama-server's router reads the same here. Each deliberate difference is a case with its reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.routers import ENGINES, Events, Router, chat, start
from tests.waiting import until

PRESETS = """
version = 1

[*]
ctx-size = 1024
top-k = 30

[small]
model = {models}/tiny-a.gguf
alias = little,wee
tags = fast,toy
ctx-size = 512
parallel = 2
temp = 0.3
props = on
slot-save-path = {models}
LLAMA_ARG_TOP_P = 0.9
load-on-startup = true

[tiny-b]
n-predict = 9
min-p = 0.4
seed = 7
repeat-penalty = 1.1
chat-template = chatml
LLAMA_ARG_N_PARALLEL = 3
cache-type-k = f32
metrics = on
cont-batching = false

[embed]
model = {models}/tiny-c.gguf
embeddings = true
pooling = mean

[cached]
hf-repo = acme/tiny-GGUF:Q8_0
dedup-cache-models = 1

[broken]
model = {models}/nowhere.gguf
"""
KEYS = "key-one,key-two"


class Pair(NamedTuple):
    """Both routers; `theirs` is llama-server."""

    theirs: Router
    ours: Router

    def ask(self, method: str, path: str, **more: Any) -> tuple[httpx.Response, httpx.Response]:
        theirs, ours = (router.client.request(method, path, **more) for router in self)
        return theirs, ours

    def become(self, model: str, status: str) -> None:
        for router in self:
            until(lambda router=router: router.status(model) == status)  # type: ignore[misc]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Path:
    """Models, presets, and a Hugging Face cache with two more models."""
    folder = tmp_path_factory.mktemp("parity")
    shutil.copytree(tiny_models, folder / "models")
    (folder / "presets.ini").write_text(PRESETS.format(models=folder / "models"))
    for repo in ("acme/tiny-GGUF", "acme/other-GGUF"):
        snapshot = folder / "hf/hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs/main").write_text("0" * 40)
        shutil.copy(tiny_models / "tiny-a.gguf", snapshot / f"{repo[5:-5]}-Q8_0.gguf")
    return folder


@contextlib.contextmanager
def running(folder: Path, place: Path, *flags: str, model: Path | None = None) -> Iterator[Pair]:
    """Both with the same command line, except for the port. With a `model` theirs is a server of this model alone."""
    binary = ENGINES["llama-server"]()
    models = ("--model", str(model)) if model else ("--models-dir", str(folder / "models"))
    words = (*flags, *models, "--threads", "1", "--offline")
    shared = {"HF_HOME": str(folder / "hf"), "LLAMA_CACHE": ""}
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "HF_"))}
    place.mkdir()
    log = place / "llama-server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [binary, "--port", "0", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**env, **shared, "LD_LIBRARY_PATH": str(Path(binary).parent)},
        )
    with contextlib.ExitStack() as stack:
        theirs = Router(process, log, place)
        stack.callback(theirs.stop)
        # It sometimes drops a kept-alive connection: one request in twenty after a proxied one.
        theirs.client.headers["connection"] = "close"
        ours = start(place / "ours", *words, **shared, LLAMA_SERVER_PATH=binary)
        stack.callback(ours.stop)
        yield Pair(theirs, ours)


@pytest.fixture(scope="module")
def pair(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """All models run, except `tiny-a`, `tiny-c` and those that cannot."""
    place = tmp_path_factory.mktemp("pair") / "open"
    presets = ("--models-preset", str(folder / "presets.ini"))
    with running(folder, place, *presets, "--models-max", "8", "--min-p", "0.2") as pair:
        for model in ("small", "tiny-b", "embed", "cached"):
            if model != "small":  # which is loaded on startup
                pair.ask("POST", "/models/load", json={"model": model})
            pair.become(model, "loaded")
        yield pair


@pytest.fixture(scope="module")
def locked(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """With keys, without autoload."""
    place = tmp_path_factory.mktemp("pair") / "locked"
    with running(folder, place, "--api-key", KEYS, "--no-models-autoload", "--cors-origins", "localhost") as pair:
        yield pair


def missing(theirs: Any, ours: Any, where: str = "") -> list[str]:
    """Paths in their JSON that ours lacks, or where ours has another type. Of lists, the first items are compared."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        lacks = [f"{where}.{key}" for key in theirs if key not in ours]
        return lacks + [
            path for key in theirs if key in ours for path in missing(theirs[key], ours[key], f"{where}.{key}")
        ]
    if isinstance(theirs, list) and isinstance(ours, list):
        return missing(theirs[0], ours[0], f"{where}[0]") if theirs and ours else []
    if theirs is None or kind(theirs) == kind(ours):
        return []
    return [f"{where}: {kind(ours)}, not {kind(theirs)}"]


def kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def media_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0]


@dataclass(frozen=True)
class Case:
    """`exact` names the keys whose values must be equal; True means that the whole bodies must be.
    `ours` is our status where it differs from theirs, and `why` the reason. `first` are sent before it."""

    ask: str
    json: Any = None
    exact: bool | str = ""
    ours: int | None = None
    why: str = ""
    content: bytes | None = None
    form: dict[str, str] | None = None
    first: tuple[Case, ...] = ()

    @property
    def name(self) -> str:
        said = self.content if self.content is not None else self.form or self.json
        return f"{self.ask} {'' if said is None else str(said)[:60]}".strip()

    def sent(self) -> dict[str, Any]:
        if self.form is not None:
            return {"data": self.form, "files": {"file": ("a.wav", b"RIFF", "audio/wav")}}
        return {"json": self.json} if self.content is None else {"content": self.content}


def say(model: Any, **more: Any) -> dict[str, Any]:
    return chat(model, 3, **more)


def prompt(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "prompt": "a b", "n_predict": 2, "temperature": 0, "seed": 1, **more}


METHOD = "RFC 9110: the path is known, the method is not"


def slot(action: str, exact: str, *first: Case) -> Case:
    return Case(f"POST /slots/0?action={action}", {"model": "small", "filename": "slot.bin"}, exact=exact, first=first)


FILLS_SLOT = Case("POST /completion", {**prompt("small"), "id_slot": 0, "cache_prompt": True}, exact="content id_slot")
SAVES_SLOT = slot("save", "id_slot filename n_saved", FILLS_SLOT)
CASES = [
    # about the router
    Case("GET /health", exact=True),
    Case("GET /v1/health", exact=True),
    Case("HEAD /health"),
    Case("GET /models"),
    Case("GET /v1/models"),
    Case("HEAD /v1/models"),
    Case("GET /props", exact="role max_instances models_autoload model_path default_generation_settings build_info"),
    # about a running model, by query
    *(
        Case(f"GET /props?model={model}", exact="default_generation_settings total_slots chat_template model_alias")
        for model in ("small", "wee", "tiny-b", "embed", "cached")
    ),
    Case("GET /slots?model=tiny-b", exact=True),
    Case("GET /metrics?model=tiny-b"),
    Case("GET /metrics?model=small"),
    Case("GET /lora-adapters?model=tiny-b", exact=True),
    Case("GET /props?model=tiny-c&autoload=false", exact="error.code error.type"),
    Case("GET /slots?model=tiny-c&autoload=0", exact="error.code error.type"),
    Case("GET /slots", exact="error.code error.type"),
    Case("GET /lora-adapters", exact="error.code error.type"),
    Case("GET /props?model=nowhere", ours=404, why="B-C1"),
    Case("GET /props?model=tiny-a", ours=400, why="a fault: a metrics scraper loads models"),
    Case("GET /metrics", ours=200, why="the router has metrics of its own"),
    # answers
    Case("POST /v1/chat/completions", say("tiny-b"), exact="choices model object usage.completion_tokens"),
    Case("POST /chat/completions", say("tiny-b"), exact="choices model object"),
    Case("POST /v1/chat/completions?autoload=", say("wee"), exact="choices model"),
    Case("POST /v1/chat/completions", say("tiny-b", stream=True)),
    Case("POST /completion", prompt("tiny-b"), exact="content model stop tokens_predicted generation_settings"),
    Case("POST /completions", prompt("tiny-b"), exact="content model"),
    Case("POST /completion", prompt("tiny-b", stream=True)),
    Case("POST /v1/completions", prompt("tiny-b", max_tokens=2), exact="choices model object"),
    Case("POST /v1/completions", prompt("tiny-b", stream=True)),
    # Theirs says "completed" for an answer that its limit has cut.
    Case("POST /v1/responses", {"model": "tiny-b", "input": "a", "max_output_tokens": 2}, exact="object model"),
    Case("POST /responses", {"model": "tiny-b", "input": "a", "max_output_tokens": 2}),
    Case("POST /v1/messages", say("tiny-b"), exact="content model role stop_reason type"),
    Case("POST /v1/messages", say("tiny-b", stream=True)),
    Case("POST /v1/messages/count_tokens", say("tiny-b"), exact=True),
    Case("POST /v1/chat/completions/input_tokens", say("tiny-b"), exact=True),
    Case("POST /chat/completions/input_tokens", say("tiny-b"), exact=True),
    Case("POST /v1/responses/input_tokens", {"model": "tiny-b", "input": "a"}, exact=True),
    Case("POST /responses/input_tokens", {"model": "tiny-b", "input": "a"}, exact=True),
    Case("POST /v1/embeddings", {"model": "embed", "input": ["a", "b"]}, exact=True),
    Case("POST /embedding", {"model": "embed", "content": "a"}, exact=True),
    Case("POST /embeddings", {"model": "embed", "content": "a"}, exact=True),
    Case("POST /tokenize", {"model": "tiny-b", "content": "the a of"}, exact=True),
    Case("POST /detokenize", {"model": "tiny-b", "tokens": [70, 71]}, exact=True),
    Case("POST /apply-template", say("tiny-b"), exact=True),
    Case("POST /v1/chat/completions", say("cached"), exact="choices model"),
    Case("POST /v1/chat/completions", say("acme/tiny-GGUF:Q8_0"), exact="choices model"),
    # of one process
    FILLS_SLOT,
    SAVES_SLOT,
    slot("restore", "id_slot filename n_restored", FILLS_SLOT, SAVES_SLOT),
    slot("erase", "id_slot n_erased", FILLS_SLOT),
    slot("dance", "error.code error.type"),
    Case("POST /slots/0?action=save", {"model": "small", "filename": "../slot.bin"}, exact="error.code error.type"),
    Case("POST /slots/9?action=erase", {"model": "small"}, exact=True),
    Case("GET /slots?model=small&fail_on_no_slot=1"),
    Case("POST /props", {"model": "small"}, exact=True),
    Case("POST /lora-adapters?model=tiny-b", [], ours=200, why="a fault: the list that it wants can name no model"),
    Case("POST /lora-adapters?model=tiny-c", [], exact="error.code error.type"),
    # what these models or builds cannot do, in the engine's words
    Case("POST /infill", {"model": "tiny-b", "input_prefix": "a", "input_suffix": "b"}, exact=True),
    *(
        Case(f"POST {path}", {"model": "tiny-b", "query": "a", "documents": ["b"]}, exact=True)
        for path in ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking")
    ),
    Case("POST /v1/embeddings", {"model": "tiny-b", "input": "a"}, exact=True),
    Case("POST /v1/audio/transcriptions", form={"model": "tiny-b"}, exact=True),
    Case("POST /audio/transcriptions", form={"model": "tiny-b"}, exact=True),
    Case("POST /props", {"model": "tiny-b"}, exact=True),
    Case("POST /slots/0?action=erase", {"model": "tiny-b"}, exact=True),
    Case("POST /lora-adapters", {"model": "tiny-b"}, exact=True),
    Case("POST /v1/chat/completions/control", {"model": "tiny-b"}, exact=True),
    Case("POST /v1/systemone", {"model": "tiny-b"}, exact=True),
    Case("POST /v1/chat/completions", {"model": "tiny-b"}, exact=True),
    Case("POST /v1/chat/completions", {"model": "tiny-b", "messages": "text"}, exact=True),
    Case("POST /v1/chat/completions", say("tiny-b", max_tokens="many"), exact=True),
    # wrong requests
    Case("POST /v1/chat/completions", say("nowhere"), ours=404, why="B-C1"),
    Case("POST /completion", prompt("nowhere"), ours=404, why="B-C1"),
    Case("POST /v1/messages", say("nowhere"), ours=404, why="B-C1"),
    Case("POST /audio/transcriptions", form={"model": "nowhere"}, ours=404, why="B-C1"),
    *(
        Case("POST /v1/chat/completions", say(model), exact="error.code error.type")
        for model in (None, "", 5, ["tiny-b"], {"name": "tiny-b"}, True)
    ),
    Case("POST /v1/chat/completions?autoload=0", say("tiny-c"), exact="error.code error.type"),
    Case("POST /v1/chat/completions?autoload=false", say("tiny-c"), exact="error.code error.type"),
    *(
        Case("POST /v1/chat/completions", content=body, exact="error.code error.type")
        for body in (b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b'{"model": "tiny-b"} trailing')
    ),
    Case("POST /audio/transcriptions", form={}, exact="error.code error.type"),
    Case("POST /v1/chat/completions", say("broken"), exact="error.code error.type"),
    Case("GET /nowhere", exact="error.code error.type"),
    Case("GET /", ours=200, why="Ollama's clients check here whether it runs"),
    Case("GET /v1/chat/completions", ours=405, why=METHOD),
    Case("POST /health", ours=405, why=METHOD),
    Case("PUT /models", ours=405, why=METHOD),
    Case("OPTIONS /models", ours=405, why="no preflight: it has no origin"),
    # loads and unloads that are refused
    Case("POST /models/load", {"model": "tiny-b"}, ours=200, why="B-L1: it is already loaded"),
    Case("POST /models/load", {"model": "nowhere"}, exact="error.code error.type"),
    Case("POST /models/load", {}, ours=400, why="B-C1: a missing name is no unknown one"),
    Case("POST /models/load", {"model": 5}, ours=400, why="B-C1: a missing name is no unknown one"),
    Case("POST /models/load", content=b"{", exact="error.code error.type"),
    Case(
        "POST /models/load", {"model": "broken"}, ours=500, why="B-P3: a load that is known to fail is refused at once"
    ),
    Case("POST /models/unload", {"model": "tiny-c"}, exact="error.code error.type"),
    Case("POST /models/unload", {}, exact="error.code error.type"),
    Case("POST /models/unload", content=b"{", exact="error.code error.type"),
    Case("POST /models/unload", {"model": "nowhere"}, ours=404, why="B-C1"),
    # endpoints of their router that differ here
    Case("GET /v1/models/tiny-b", ours=200, why="OpenAI's clients ask for one model"),
    *(Case(f"{method} /tools", ours=200, why="B-W1: a refusal is an error to the page") for method in ("GET", "POST")),
    *(Case(ask, exact=True) for ask in ("GET /cors-proxy", "POST /cors-proxy")),
    Case("GET /build.json", ours=200, why="B-W1: their build comes without the page"),
    Case("POST /models", {}, exact="error.code error.type"),
    Case("DELETE /models", exact="error.code error.type"),
    # resumable streams of unknown ids; `test_stream` has known ones
    Case("GET /v1/stream", exact="error.code error.type"),
    Case("GET /v1/stream?conv_id=x", exact="error.code error.type"),
    Case("DELETE /v1/stream", exact="error.code error.type"),
    Case("DELETE /v1/stream?conv_id=x"),
    Case("POST /v1/streams/lookup", {"conversation_ids": ["x"]}, exact=True),
    Case("POST /v1/streams/lookup", {}, exact=True),
    Case("POST /v1/streams/lookup", content=b"{", exact=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request_is_answered_as_theirs(pair: Pair, case: Case) -> None:
    ask_both(pair, case)


def ask_both(pair: Pair, case: Case) -> None:
    for one in case.first:
        pair.ask(*one.ask.split(" "), **one.sent())
    theirs, ours = pair.ask(*case.ask.split(" "), **case.sent())
    if case.ours:
        assert theirs.status_code != case.ours
        assert (ours.status_code, bool(case.why)) == (case.ours, True)
        return
    assert ours.status_code == theirs.status_code
    assert media_type(ours) == media_type(theirs)
    if media_type(theirs) == "application/json" and theirs.content:
        compare(theirs.json(), ours.json(), case.exact)
    elif media_type(theirs) == "text/event-stream":
        assert events(ours)
        for mine, other in zip(joined(events(ours)), joined(events(theirs)), strict=True):
            assert not missing(other, mine)
            assert text_of(mine) == text_of(other)
    elif theirs.content:
        assert names(ours.text) == names(theirs.text)


def compare(theirs: Any, ours: Any, exact: bool | str) -> None:
    assert not missing(theirs, ours)
    if isinstance(exact, str):
        for path in exact.split():
            assert at(ours, path) == at(theirs, path), path
    elif exact:
        assert without_param(ours) == theirs


def without_param(ours: Any) -> Any:
    """An error of ours has OpenAI's `param` too."""
    if isinstance(ours, dict) and isinstance(ours.get("error"), dict):
        return {**ours, "error": {key: value for key, value in ours["error"].items() if key != "param"}}
    return ours


def at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value[int(key) if isinstance(value, list) else key]
    return value


def events(response: httpx.Response) -> list[Any]:
    found = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    parsed = [json.loads(event) if event != "[DONE]" else event for event in found]
    # Anthropic's pings may come at any time.
    return [event for event in parsed if not (isinstance(event, dict) and event.get("type") == "ping")]


def text_of(event: Any) -> str | None:
    """The text that an event of Anthropic's API brings; None for any other event."""
    delta = event.get("delta") if isinstance(event, dict) and event.get("type") == "content_block_delta" else None
    return delta.get("text") if delta else None


def joined(found: list[Any]) -> list[Any]:
    """Pieces of Anthropic's text that follow each other as one: how many come together is a matter of time."""
    result: list[Any] = []
    for event in found:
        more, before = text_of(event), result and text_of(result[-1])
        if more and before and result[-1]["index"] == event["index"]:
            result[-1] = {**event, "delta": {**event["delta"], "text": before + more}}
        else:
            result.append(event)
    return result


def names(metrics: str) -> set[str]:
    return {line.split()[0] for line in metrics.splitlines() if line and not line.startswith("#")}


# The listing


def test_the_same_models_are_listed(pair: Pair) -> None:
    theirs, ours = (router.listing() for router in pair)
    assert ours.keys() == theirs.keys()
    assert "acme/tiny-GGUF:Q8_0" not in ours  # it is `cached`
    for name in theirs.keys() - {"tiny-a", "broken"}:  # the requests above made only their router try to load these
        assert not missing(theirs[name], ours[name]), name
        for key in ("aliases", "tags", "object", "owned_by", "source", "architecture", "can_remove"):
            assert ours[name][key] == theirs[name][key], (name, key)


@pytest.mark.parametrize("model", ["small", "tiny-b"])
def test_a_running_model_has_the_same_description(pair: Pair, model: str) -> None:
    theirs, ours = (router.listing()[model] for router in pair)
    assert ours["status"]["value"] == theirs["status"]["value"] == "loaded"
    assert theirs["meta"].items() <= ours["meta"].items()


# Load and unload, and their events


def load_events(router: Router, headers: Mapping[str, str]) -> list[dict[str, Any]]:
    """The events of a load and an unload in `/models/sse`."""
    with router.client.stream("GET", "/models/sse", headers=headers) as response:
        assert media_type(response) == "text/event-stream"
        for way, status in (("load", "loaded"), ("unload", "unloaded")):
            answer = router.client.post(f"/models/{way}", json={"model": "tiny-c"}, headers=headers)
            assert answer.json()["success"] is True
            until(lambda status=status: status_of(router, "tiny-c", headers) == status)  # type: ignore[misc]
        found = []
        for event in Events(response):
            found.append(json.loads(event))
            if found[-1]["data"]["status"] == "unloaded" and "exit_code" in found[-1]["data"]:
                return found
    raise AssertionError("the stream ended")


def status_of(router: Router, model: str, headers: Mapping[str, str]) -> str:
    models = router.client.get("/models", headers=headers).json()["data"]
    return str(next(entry for entry in models if entry["id"] == model)["status"]["value"])


def test_events_of_a_load_and_an_unload_are_the_same(locked: Pair) -> None:  # B-P7
    headers = {"authorization": "Bearer key-one"}
    theirs, ours = (load_events(router, headers) for router in locked)
    assert {event["model"] for event in ours} == {"tiny-c"}
    for status in ("loading", "loaded", "unloaded"):
        mine, other = (last(found, status) for found in (ours, theirs))
        assert not missing(other, mine)
        assert mine["event"] == other["event"]
    assert last(ours, "unloaded")["data"]["exit_code"] == last(theirs, "unloaded")["data"]["exit_code"] == 0
    shown = [event["data"]["progress"]["value"] for event in ours if "progress" in event["data"]]
    assert shown == sorted(shown)
    assert shown[-1] == 1.0


def last(found: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return [event for event in found if event["data"]["status"] == status][-1]


def test_without_autoload_a_request_has_to_ask_for_the_load(locked: Pair) -> None:
    """A request loads its model only if it says so."""
    headers = {"authorization": "Bearer key-two"}
    path = "/v1/chat/completions"
    for query, status in (("", 400), ("?autoload=0", 400), ("?autoload=yes", 400), ("?autoload=1", 200), ("", 200)):
        theirs, ours = locked.ask("POST", path + query, json=say("tiny-b"), headers=headers)
        assert ours.status_code == theirs.status_code == status, query
    theirs, ours = locked.ask("GET", "/props", headers=headers)
    assert ours.json()["models_autoload"] is theirs.json()["models_autoload"] is False


# Keys


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer key-one"},
        {"authorization": "Bearer key-two"},
        {"authorization": "key-one"},
        {"authorization": "Bearer key"},
        {"authorization": f"Bearer {KEYS}"},
        {"authorization": "Basic key-one"},
        {"x-api-key": "key-one"},
        {"x-api-key": "Bearer key-two"},
        {"x-api-key": "key-three"},
        {"authorization": "Bearer key", "x-api-key": "key"},
    ],
    ids=str,
)
def test_a_key_is_accepted_where_theirs_is(locked: Pair, headers: dict[str, str]) -> None:
    for path in ("/props", "/v1/models", "/nowhere", "/metrics"):
        theirs, ours = locked.ask("GET", path, headers=headers)
        assert (ours.status_code == 401) is (theirs.status_code == 401), path
        if theirs.status_code == 401:
            compare(theirs.json(), ours.json(), "error.code error.type")


@pytest.mark.parametrize(
    "headers", [{"authorization": "bearer key-one"}, {"authorization": "Basic x", "x-api-key": "key-one"}], ids=str
)
def test_some_keys_are_accepted_here_only(locked: Pair, headers: dict[str, str]) -> None:
    """The case of the scheme does not matter (RFC 9110), and a wrong header does not hide a right one."""
    theirs, ours = locked.ask("GET", "/props", headers=headers)
    assert (theirs.status_code, ours.status_code) == (401, 200)


@pytest.mark.parametrize("path", ["/health", "/v1/health"])
def test_health_needs_no_key(locked: Pair, path: str) -> None:
    theirs, ours = locked.ask("GET", path)
    assert ours.status_code == theirs.status_code == 200


# CORS: here `*` does not mean "every origin, with credentials", as theirs does, and only whole origins are reflected.

ORIGINS = {
    "http://localhost": True,
    "http://localhost:3000": True,
    "https://127.0.0.1:8443": True,
    "http://[::1]:3000": True,
    "http://localhost.evil.com": False,
    "http://127.0.0.1.evil.com": False,
    "http://localhost@evil.com": False,
    "http://evil.com": False,
    "http://evil.com/localhost": False,
    "http://notlocalhost": False,
    "localhost": False,
    "null": False,
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_an_origin_is_allowed_where_theirs_is(locked: Pair, origin: str) -> None:
    asking = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-custom"}
    for method, path, more in (("GET", "/health", {}), ("OPTIONS", "/v1/chat/completions", asking)):
        for response in locked.ask(method, path, headers={"origin": origin, **more}):
            assert response.headers.get("access-control-allow-origin") == (origin if ORIGINS[origin] else None)
    theirs, ours = locked.ask("OPTIONS", "/v1/chat/completions", headers={"origin": origin, **asking})
    assert (ours.status_code == 200) is ORIGINS[origin]
    if ORIGINS[origin]:
        assert listed(ours, "methods") >= listed(theirs, "methods") >= {"GET", "POST", "DELETE"}
        assert listed(ours, "headers") >= {"authorization", "x-custom"}  # theirs is `*`, which means not authorization


def test_an_origin_with_a_user_is_not_loopback(locked: Pair) -> None:
    theirs, ours = locked.ask("GET", "/health", headers={"origin": "http://evil.com@localhost"})
    assert "access-control-allow-origin" in theirs.headers  # a fault
    assert "access-control-allow-origin" not in ours.headers


def listed(response: httpx.Response, what: str) -> set[str]:
    return {word.strip() for word in response.headers[f"access-control-allow-{what}"].split(",")}


# Presets read again


def test_a_reload_is_answered_as_theirs(folder: Path, tmp_path: Path) -> None:  # B-L13
    presets = tmp_path / "presets.ini"
    text = f"[one]\nmodel = {folder}/models/tiny-a.gguf\nload-on-startup = on\n"
    presets.write_text(text)
    with running(folder, tmp_path / "pair", "--models-preset", str(presets)) as pair:
        pair.become("one", "loaded")
        presets.write_text(f"{text}[two]\nmodel = {folder}/models/tiny-b.gguf\nalias = second\n")
        for query in ("", "?reload="):
            assert all("two" not in response.text for response in pair.ask("GET", f"/models{query}"))
        theirs, ours = pair.ask("GET", "/models?reload=1")
        assert ids(ours) == ids(theirs) > {"one", "two"}
        assert all(router.listing()["two"]["aliases"] == ["second"] for router in pair)
        assert all(router.status("one") == "loaded" for router in pair)
        presets.write_text(f"{text}no-such-option = 1\n")
        theirs, ours = pair.ask("GET", "/models?reload=1")
        assert (theirs.status_code, ours.status_code) == (500, 400)  # B-L13: with line and key
        assert "presets.ini:4" in ours.json()["error"]["message"]
        assert "no-such-option" in ours.json()["error"]["message"]
        assert pair.ours.listing().keys() > {"one", "two"}


def ids(response: httpx.Response) -> set[str]:
    return {model["id"] for model in response.json()["data"]}
