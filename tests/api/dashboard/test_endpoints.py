"""`/router/state`, `/router/events`, `/router/stream` and `/models/{name}/pin` of real routers: their shapes, who may
ask, and what is a mistake."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.api.dashboard import stream
from tests.api.dashboard import schemas
from tests.api.dashboard.listener import Listener, assert_same
from tests.api.dashboard.schemas import check
from tests.routers import Router, start
from tests.waiting import PATIENCE_S, until

Launch = Callable[..., Router]
ODD = 'org/team:v1 "<img onerror=x>"'


@pytest.fixture(scope="module")
def router(fake: str, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """Two kinds of keys and a prefix. Of its models one is broken, and one has an odd name."""
    place = tmp_path_factory.mktemp("dashboard")
    (place / "presets.ini").write_text(
        f"[{ODD}]\nmodel = {tiny_models}/tiny-a.gguf\nalias = odd\n\n"
        f"[kept]\nmodel = {tiny_models}/tiny-a.gguf\npin = on\nttl = 100\n\n"
        f"[sick]\nmodel = {tiny_models}/tiny-a.gguf\nenv.FAKE_FAIL = error: out of luck\n\n"
        f"[missing]\nmodel = {place}/nothing.gguf\n"
    )
    flags = ("--models-dir", str(tiny_models), "--models-preset", str(place / "presets.ini"), "--api-prefix", "/llm")
    router = start(place / "r", "--engine", fake, *flags, "--api-key", "reader", "--admin-key", "admin")
    router.client.headers["authorization"] = "Bearer admin"
    yield router
    router.stop()


def state_of(router: Router) -> dict[str, Any]:
    answer = router.client.get("/router/state")
    assert answer.status_code == 200, answer.text
    check(answer.json(), schemas.STATE)
    return dict(answer.json())


def model_of(router: Router, name: str) -> dict[str, Any]:
    [model] = [each for each in state_of(router)["models"] if each["id"] == name]
    return dict(model)


@contextlib.contextmanager
def heard(router: Router, **query: Any) -> Iterator[Iterator[Listener]]:
    """A listener, after each message."""
    listener = Listener()

    def listen(answer: httpx.Response) -> Iterator[Listener]:
        message = ""
        for line in answer.iter_lines():
            message += line + "\n"
            if not line:
                listener.hear(message.encode())
                check_message(message)
                message = ""
                yield listener

    with router.client.stream("GET", "/router/stream", params=query) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        yield listen(answer)


def check_message(message: str) -> None:
    shape = {"event: state": schemas.STATE, "event: patch": schemas.PATCH}.get(message.split("\n")[0])
    if shape:
        check(json.loads(message.partition("data: ")[2]), shape)


def hear_until(messages: Iterator[Listener], condition: Callable[[Listener], object]) -> Listener:
    end = time.monotonic() + PATIENCE_S
    for listener in messages:
        if condition(listener):
            return listener
        assert time.monotonic() < end, listener.state
    raise AssertionError("it ended")


def test_the_state_has_its_shape_in_every_state_of_a_model(router: Router) -> None:
    assert router.chat("tiny-a").status_code == 200
    assert router.chat("kept").status_code == 200
    assert router.chat("sick").status_code == 500
    models = {model["id"]: model for model in state_of(router)["models"]}
    assert models["tiny-b"].keys() == {"id", "state", "need"}
    loaded = models["tiny-a"]
    assert (loaded["state"], loaded["leases"], loaded["restarts"], loaded["expires_in"]) == ("loaded", 0, 0, None)
    assert loaded["held"].keys() == {"local/RAM"}
    assert loaded["idle"] < PATIENCE_S
    assert loaded["need"] > 0
    assert models["kept"]["pinned"]
    assert models["kept"]["ttl"] == 100
    assert models["kept"]["expires_in"] is None
    assert models["sick"]["failed"]
    assert models["sick"]["failures"] == 1
    assert "out of luck" in models["sick"]["error"]
    assert "nothing.gguf" in models["missing"]["error"]
    assert models[ODD]["aliases"] == ["odd"]
    [ram] = state_of(router)["devices"]
    assert {held["model"]: held["phase"] for held in ram["held"]} == {"tiny-a": "idle", "kept": "idle"}
    assert all(held["promised"] <= held["bytes"] for held in ram["held"])


def test_what_has_not_changed_is_a_304(router: Router) -> None:
    def is_same() -> bool:
        """RAM is read again each second, and is hardly ever the same."""
        tag = router.client.get("/router/state").headers["etag"]
        answers = [
            router.client.get("/router/state", headers={"if-none-match": header})
            for header in (tag, f'"x", {tag.removeprefix("W/")}', "*")
        ]
        assert all(bool(answer.content) == (answer.status_code == 200) for answer in answers)
        return all(answer.status_code == 304 and answer.headers["etag"] == tag for answer in answers)

    until(is_same)
    tag = router.client.get("/router/state").headers["etag"]
    router.client.post("/models/tiny-c/pin", json={"pinned": True})
    after = router.client.get("/router/state", headers={"if-none-match": tag})
    assert after.status_code == 200
    assert after.headers["etag"] != tag
    assert router.client.get("/router/state", headers={"if-none-match": "what"}).status_code == 200
    router.client.post("/models/tiny-c/pin", json={"pinned": None})


def test_a_listener_sees_a_load_and_has_what_the_state_says(router: Router) -> None:
    with heard(router) as messages:
        before = next(messages)
        assert before.heard == ["state"]
        assert router.chat("tiny-b").status_code == 200

        def is_idle(listener: Listener) -> bool:
            model = next(each for each in listener.state["models"] if each["id"] == "tiny-b")
            return model["state"] == "loaded" and model["idle"] is not None

        hear_until(messages, is_idle)
        listener = hear_until(messages, lambda listener: any(each["kind"] == "ready" for each in listener.events))
        assert [event["kind"] for event in listener.events if event["model"] == "tiny-b"][:2] == ["start", "ready"]

        def is_same(listener: Listener) -> bool:
            state = state_of(router)
            names = {"models", "queue"}
            try:
                shown = listener.view(state["now"])
                assert_same({name: shown[name] for name in names}, {name: state[name] for name in names})
            except AssertionError:
                return False
            return True

        hear_until(messages, is_same)
    with heard(router, since=0) as messages:
        missed = hear_until(messages, lambda listener: len(listener.events) >= 2)
        assert [event["seq"] for event in missed.events][:2] == [1, 2]


def test_a_running_request_is_told_and_its_end(router: Router) -> None:
    router.chat("tiny-a")
    with heard(router) as messages:
        next(messages)
        assert router.chat("tiny-a", tokens=3).status_code == 200

        def has_ended(listener: Listener) -> bool:
            return any(each["phase"] == "done" and each["model"] == "tiny-a" for each in listener.requests.values())

        hear_until(messages, has_ended)


def test_events_are_told_by_model_by_number_and_as_lines(router: Router) -> None:
    for pinned in (True, False, True, None):
        router.client.post(f"/models/{quote(ODD, safe='')}/pin", json={"pinned": pinned})
    whole = router.client.get("/router/events").json()
    check(whole, schemas.EVENTS)
    assert [event["seq"] for event in whole["events"]] == list(range(1, whole["seq"] + 1))
    mine = [event for event in whole["events"] if event["model"] == ODD]
    assert [event["kind"] for event in mine][-4:] == ["pin"] * 4
    assert router.client.get("/router/events", params={"model": "odd"}).json()["events"] == mine
    assert router.client.get("/router/events", params={"model": "none"}).json()["events"] == []
    assert router.client.get("/router/events", params={"limit": 2}).json()["events"] == whole["events"][-2:]
    since = router.client.get("/router/events", params={"since": mine[-2]["seq"], "model": "odd"}).json()
    assert since == {"seq": whole["seq"], "events": mine[-1:]}
    other = router.client.get("/router/events", params={"since": whole["seq"] + 1000}).json()
    assert other == whole  # of a router that was here before
    lines = router.client.get("/router/events", params={"format": "jsonl"})
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in lines.text.splitlines()] == whole["events"]


ASKED: dict[str, dict[str, str]] = {
    "/router/state": {"model": "x", "since": "1", "": ""},
    "/router/events": {"since": "-1", "limit": "0", "format": "xml", "limt": "3"},
    "/router/stream": {"since": "1e3", "limit": "1"},
}


@pytest.mark.parametrize(
    ("path", "query"),
    [(path, {name: value}) for path, pairs in ASKED.items() for name, value in pairs.items()],
)
def test_a_wrong_query_is_a_bad_request_that_says_so(router: Router, path: str, query: dict[str, str]) -> None:
    answer = router.client.get(path, params=query)
    assert answer.status_code == 400
    assert (next(iter(query)) or "''") in answer.json()["error"]["message"]


TEXTS = st.one_of(st.integers().map(str), st.text(max_size=20), st.sampled_from(["1 ", "+1", "٣", "1" * 16, "\0", "é"]))


@given(st.lists(st.tuples(st.sampled_from(["since", "limit", "format", "model", "x"]), TEXTS), max_size=3))
def test_no_query_is_a_defect(router: Router, query: list[tuple[str, str]]) -> None:
    answer = router.client.get("/router/events", params=tuple(query))
    names = [name for name, _ in query]
    is_right = len(names) == len(set(names)) and all(
        (
            (name in ("since", "limit") and value.isascii() and value.isdecimal() and len(value) < 16)
            and (name == "since" or int(value) > 0)
        )
        or (name == "format" and value in ("json", "jsonl"))
        or name == "model"
        for name, value in query
    )
    assert answer.status_code == (200 if is_right else 400), (query, answer.text)
    if not is_right:
        assert answer.json()["error"]["message"]


def test_reading_takes_a_key_and_pinning_an_admin_key(router: Router) -> None:  # B-T3
    for path in ("/router/state", "/router/events", "/router/stream"):
        for key, status in (("wrong", 401), ("reader", 200), ("admin", 200)):
            with httpx.stream("GET", router.url + path, headers={"authorization": f"Bearer {key}"}) as answer:
                assert answer.status_code == status
        assert router.client.head(path).status_code == 200
        assert router.client.post(path, json={}).status_code == 405
        assert httpx.get(router.url.removesuffix("/llm") + path).status_code == 401
    for key, status in (("wrong", 401), ("reader", 403)):
        headers = {"authorization": f"Bearer {key}"}
        pin = httpx.post(f"{router.url}/models/tiny-a/pin", json={"pinned": True}, headers=headers)
        assert pin.status_code == status
    assert not model_of(router, "tiny-a").get("pinned")


def test_a_page_of_another_site_gets_nothing(launch: Launch, folder: Callable[..., Path]) -> None:  # B-T1
    router = launch("--models-dir", str(folder("a")))
    foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    for path in ("/router/state", "/router/events", "/router/stream"):
        assert router.client.get(path, headers=foreign).status_code == 403
        assert router.client.get(path, headers={"host": "evil.example"}).status_code == 403
    assert router.client.post("/models/a/pin", json={"pinned": True}, headers=foreign).status_code == 403
    typed = {"origin": router.url, "content-type": "text/plain"}
    assert router.client.post("/models/a/pin", content='{"pinned": true}', headers=typed).status_code == 415
    assert not model_of(router, "a").get("pinned")


def test_a_pin_is_shown_and_holds_over_new_presets(launch: Launch, tiny_models: Path, tmp_path: Path) -> None:
    presets = tmp_path / "models.ini"
    lines = f"[a]\nmodel = {tiny_models}/tiny-a.gguf\n[b:x/y]\nmodel = {tiny_models}/tiny-a.gguf\npin = on\n"
    presets.write_text(lines)
    router = launch("--models-preset", str(presets))
    path = f"/models/{quote('b:x/y', safe='')}/pin"

    def pin(path: str, pinned: bool | None) -> bool:
        answer = router.client.post(path, json={"pinned": pinned})
        assert answer.status_code == 200, answer.text
        check(answer.json(), schemas.PIN)
        return bool(answer.json()["pinned"])

    def shown() -> list[bool]:
        listed = router.listing()
        models = [model_of(router, name) for name in ("a", "b:x/y")]
        assert [listed[name]["pinned"] for name in ("a", "b:x/y")] == [m.get("pinned", False) for m in models]
        return [model.get("pinned", False) for model in models]

    assert shown() == [False, True]
    assert pin("/models/a/pin", True)
    assert not pin("/models/b:x/y/pin", False)
    assert shown() == [True, False]
    presets.write_text(lines + "[c]\nmodel = x.gguf\n")
    assert router.client.post("/models/reload", json={}).json()["added"] == ["c"]
    assert shown() == [True, False]
    assert pin(path, None)
    assert not pin("/models/a/pin", None)
    assert shown() == [False, True]
    assert router.client.post("/models/none/pin", json={"pinned": True}).status_code == 404
    wrongs: list[Any] = [{}, {"pinned": 1}, {"pinned": "true"}, {"pinned": True, "model": "a"}, []]
    for wrong in wrongs:
        answer = router.client.post("/models/a/pin", json=wrong)
        assert answer.status_code == 400
    assert shown() == [False, True]


def test_listeners_are_bounded_and_end_with_the_router(launch: Launch, folder: Callable[..., Path]) -> None:
    router = launch("--models-dir", str(folder("a")))
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(heard(router)) for _ in range(stream.MAX_LISTENERS)]
        for messages in streams:
            assert next(messages).heard == ["state"]
        refused = router.client.get("/router/stream")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        stack.close()
        until(lambda: router.client.stream("GET", "/router/stream").__enter__().status_code == 200)
    with heard(router) as messages:
        next(messages)
        router.process.terminate()
        assert hear_until(messages, lambda listener: listener.has_ended).heard[-1] == "end"
    assert router.process.wait(PATIENCE_S) == 0
