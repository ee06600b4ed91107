"""Commands against a real router with a fake engine. B-O6"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.conftest import Run
from tests.client.stub import Asked, Reply, stub
from tests.conftest import Starter
from tests.routers import FAKE, Router, start

KEY = "sk-admin-secret"


@pytest.fixture(scope="module")
def router(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("commands")
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--models-max", "2", "--run-dir", str(folder / "run"))
    router = start(folder / "r", *flags, FAKE_SAY="a line\x1b]0;owned\x07 of the engine", FAKE_LOAD_SECONDS="0.1")
    yield router
    router.stop()


@pytest.fixture
def ask(router: Router, llama_router: Run) -> Run:
    def ask(*words: str, **environ: str) -> object:
        return llama_router(*words, LLAMA_ROUTER_RUN_DIR=str(router.folder.parent / "run"), **environ)

    return ask  # type: ignore[return-value]


def test_a_model_is_loaded_shown_and_unloaded(ask: Run, router: Router) -> None:  # B-O6
    ended = ask("load", "tiny-a", "--ctx-size", "1024", "--top-k", "20", "--", "--seed", "7")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("tiny-a: loaded")
    settings = router.client.get("/models/tiny-a/settings").json()
    assert settings["requested"]["ctx_size"] == 1024
    assert settings["requested"]["extra_args"] == ["--top-k", "20", "--seed", "7"]
    assert ask("load", "tiny-a", "-c", "1024").out.startswith("tiny-a: already loaded")
    answer = json.loads(ask("load", "tiny-a", "--ctx-size", "preset", "--no-extra-args", "--json").out)
    assert answer["status"] == "loaded"
    assert answer["requested"]["ctx_size"] is None

    header, row, *notes = ask("ps").out.splitlines()
    assert header.split()[:2] == ["MODEL", "STATE"]
    assert row.split()[:2] == ["tiny-a", "loaded"]
    assert str(answer["process"]["pid"]) in row
    assert "RAM" in row
    assert notes[-1] == "0 running, 0 waiting"
    assert "tiny-b" in ask("ps", "--all").out
    state = json.loads(ask("ps", "--json").out)
    assert {model["id"] for model in state["models"]} == {"tiny-a", "tiny-b", "tiny-c"}

    assert ask("load", "tiny-b").code == 0
    assert ask("unload", "tiny-a", "--wait") == (0, "tiny-a: unloaded\n", "")
    assert router.status("tiny-a") == "unloaded"
    assert json.loads(ask("unload", "--all", "--wait", "--json").out) == [{"model": "tiny-b", "unloaded": True}]
    assert ask("unload", "--all") == (0, "no model runs\n", "")
    assert ask("ps").out.startswith("no model runs\n")


@pytest.mark.parametrize(
    ("words", "code", "fragment"),
    [
        (("load", "nope"), 5, "nope"),
        (("unload", "tiny-c"), 1, "not running"),
        (("logs", "nope"), 5, "nope"),
        (("run", "nope", "hello"), 5, "nope"),
        (("load", "tiny-a", "--ctx-size", "many"), 2, "--ctx-size takes a number, auto or preset"),
        (("load", "tiny-a", "--models-dir", "/x"), 1, "--models-dir"),
        (("load", "tiny-a", "--lora", "/etc/passwd"), 1, "--lora"),
        (("load", "tiny-a", "--no-extra-args", "--top-k", "1"), 2, "leave --top-k out"),
        (("load", "tiny-a", "--tpo-k", "1"), 2, "did you mean --top-k?"),
        (("load", "tiny-a", "--chat-template-file", "/gone"), 2, "No such file"),
    ],
)
def test_what_cannot_be_done_is_told(ask: Run, words: tuple[str, ...], code: int, fragment: str) -> None:
    ended = ask(*words)
    assert ended.code == code, ended
    assert fragment in ended.sentence


def test_of_several_each_is_tried(ask: Run) -> None:
    assert ask("load", "tiny-a").code == 0
    ended = ask("unload", "nope", "tiny-a", "--wait")
    assert (ended.code, ended.out) == (5, "tiny-a: unloaded\n")
    assert "nope" in ended.err


def test_a_template_is_sent_as_text(ask: Run, router: Router, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}")
    assert ask("load", "tiny-a", "--chat-template-file", str(tmp_path / "t.jinja")).code == 0
    effective = router.client.get("/models/tiny-a/settings").json()["effective"]
    assert effective["chat_template"] == "{{ messages[0].content }}"
    assert ask("load", "tiny-a", "--chat-template", "preset").code == 0


def test_one_question_and_the_answer_alone(ask: Run, tmp_path: Path) -> None:  # B-O6
    ended = ask("run", "tiny-a", "Hello", "there")
    assert ended == (0, "one two three four five \n", "")
    ended = ask("run", "tiny-a", "Hello", "--set", "max_tokens=2", "--verbose")
    assert ended.out == "one two \n"
    assert "answer 2 tokens" in ended.err
    ended = ask("run", "tiny-a", "Hello", "--json")
    assert json.loads(ended.out)["content"] == "one two three four five "
    assert "not a number" not in ended.err
    assert ask("run", "tiny-a", "Hello", "--set", "temperature=hot").code == 2
    assert ask("run", "tiny-a", "Hello", "--image", "/gone.png").code == 2


def test_logs_show_what_a_process_wrote_and_obey_none_of_it(ask: Run) -> None:  # B-O6
    assert ask("load", "tiny-a").code == 0
    ended = ask("logs", "tiny-a")
    assert "of the engine" in ended.out
    assert "\x1b" not in ended.out
    assert "\x07" not in ended.out
    assert ask("logs", "tiny-a", "-n", "1").out.count("\n") == 1
    assert ask("logs", "tiny-a", "-n", "0").out == ""
    lines = [json.loads(line) for line in ask("logs", "tiny-a", "--json").out.splitlines()]
    assert all(set(line) == {"line"} for line in lines)


def test_logs_of_the_router_say_what_happened(ask: Run) -> None:
    assert ask("load", "tiny-b").code == 0
    assert ask("unload", "tiny-b", "--wait").code == 0
    ended = ask("logs")
    kinds = [line.split()[1] for line in ended.out.splitlines()]
    assert [kind for kind in kinds if kind in ("start", "ready", "stop")][-3:] == ["start", "ready", "stop"]
    events = [json.loads(line) for line in ask("logs", "--json", "-n", "2").out.splitlines()]
    assert len(events) == 2
    assert events[-1]["seq"] > events[0]["seq"]
    assert ask("logs", "-n", "0").out == ""


def test_a_key_opens_what_it_may(routers: Starter, tiny_models: Path, llama_router: Run, tmp_path: Path) -> None:
    (tmp_path / "admin").write_text(f"{KEY}\n")
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--api-prefix", "/llm")
    router = routers(*flags, "--admin-key-file", str(tmp_path / "admin"), LLAMA_API_KEY="sk-reader")
    where = ("--url", f"{router.url.removesuffix('/llm')}/llm")
    ended = llama_router("ps", *where)
    assert (ended.code, "Give a key with LLAMA_API_KEY" in ended.sentence) == (4, True)
    assert llama_router("health", *where).code == 0
    assert llama_router("ps", *where, LLAMA_API_KEY="sk-wrong").code == 4
    assert llama_router("ps", *where, LLAMA_API_KEY="sk-reader").code == 0
    ended = llama_router("load", "tiny-a", *where, LLAMA_API_KEY="sk-reader")
    assert (ended.code, "sk-reader" in ended.err) == (4, False)
    assert llama_router("load", "tiny-a", *where, LLAMA_ROUTER_ADMIN_KEY=KEY, LLAMA_API_KEY="sk-reader").code == 0
    # The router's own user needs to say nothing: it is found, and the file with its key is.
    [folder] = {child.environ()["LLAMA_ROUTER_RUN"] for child in router.children()}
    assert llama_router("logs", "tiny-a", "--run-dir", str(Path(folder).parent)).code == 0
    assert KEY not in Path(folder, "router.json").read_text()
    assert router.stop() == 0
    assert not os.path.exists(folder)


def test_a_killed_router_is_not_asked(routers: Starter, tiny_models: Path, llama_router: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), "--run-dir", str(run))
    assert llama_router("health", "--run-dir", str(run)).code == 0
    router.kill()
    assert [*run.glob("*/router.json")]
    ended = llama_router("health", "--run-dir", str(run))
    assert (ended.code, "127.0.0.1:8080" in ended.sentence) == (3, True), (
        "it is looked for where routers are by default"
    )


def test_a_router_with_a_socket_and_https(
    routers: Starter, tiny_models: Path, llama_router: Run, certificate: tuple[str, str], tmp_path: Path
) -> None:
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--run-dir", str(tmp_path / "run"))
    router = routers(*flags, "--ssl-cert-file", certificate[0], "--ssl-key-file", certificate[1])
    ended = llama_router("ps", "--run-dir", str(tmp_path / "run"))
    assert (ended.code, ended.err) == (0, ""), "its own certificate is trusted, whatever the name in it"
    assert llama_router("ps", "--url", router.url).code == 3
    assert llama_router("ps", "--url", router.url, "--insecure").code == 0


def test_an_unload_is_waited_for_until_the_process_is_gone(llama_router: Run) -> None:
    states: Iterator[dict[str, object]] = iter(
        [{"state": "loaded"}, {"state": "unloaded", "stopping": True}, {"state": "unloaded"}]
    )

    def answer(asked: Asked) -> Reply:
        if asked.method == "POST":
            return Reply({"success": True})
        return Reply({"models": [{"id": "m", "aliases": ["other"], **next(states)}]})

    with stub(answer) as server:
        ended = llama_router("unload", "other", "--wait", "--force", "--url", server.url)
        assert ended == (0, "other: unloaded\n", "")
        assert server.asked[0].json == {"model": "other", "force": True}
    assert next(states, None) is None
