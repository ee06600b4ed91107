"""`run`, `ps` and `logs -f` in a real terminal: what the window shows. B-O6"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.stub import DONE, Asked, Reply, chunk, error, stub
from tests.conftest import Starter
from tests.routers import ENGINES, FAKE, Router, start
from tests.terminals import Terminal, terminal
from tests.waiting import until

PROMPT = ">>> Write a message (/? for help)"


@pytest.fixture(scope="module")
def real(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """With the embedded engine."""
    folder = tmp_path_factory.mktemp("real")
    router = start(folder / "r", "--engine", ENGINES["embedded"](), "--models-dir", str(tiny_models), "-c", "2048")
    yield router
    router.stop()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Of somebody who has not run anything yet."""
    return {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}


def rules(folder: Path, *answers: dict[str, object]) -> str:
    """A script of the fake engine."""
    path = folder / "script.json"
    path.write_text(json.dumps(answers))
    return str(path)


def test_a_conversation_with_a_real_model(real: Router, environ: dict[str, str], tmp_path: Path) -> None:  # B-O6
    with terminal("run", "tiny-a", "--url", real.url, environ=environ) as window:
        window.shows(PROMPT)
        window.enter("/set parameter max_tokens 12")
        window.enter("/set verbose")
        window.enter("Hello")
        window.shows("answer 12 tokens", "tokens/s", "(cut off")
        lines = window.lines
        at = lines.index(">>> Hello")
        answer = lines[at + 1]
        assert len(answer.split()) == 12, lines
        assert lines[at + 2].startswith("(cut off")
        window.enter('"""one')
        window.shows("...")
        window.enter('two"""')
        until(lambda: window.text.count("answer 12 tokens") == 2)
        window.enter("/show")
        window.shows("model: tiny-a", "context: 2048", "max_tokens: 12", "messages so far: 4")
        window.enter("/load tiny-b")
        window.shows("now with tiny-b")
        window.enter("And you?")
        until(lambda: window.history.count("answer 12 tokens") == 3)
        window.enter("/load nope")
        window.shows("no model 'nope'")
        window.enter("/bye")
        window.shows("ended with 0")
    history = tmp_path / "state" / "llama-router" / "history"
    assert "Hello" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_an_answer_and_not_the_program(  # B-O6
    routers: Starter, tiny_models: Path, environ: dict[str, str]
) -> None:
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models))
    router = routers(*flags, FAKE_CHUNK_SECONDS="0.05", FAKE_TOKENS="100000")
    with terminal("run", "tiny-a", "--url", router.url, environ=environ) as window:
        window.shows(PROMPT)
        window.enter("Count")
        window.shows("one two three four")
        window.press("C-c")
        window.shows("(stopped)", PROMPT)
        until(lambda: _busy(router) == 0)  # the engine is free again
        window.enter("/show")
        window.shows("messages so far: 2")  # what came so far is remembered
        window.enter("Again")
        until(lambda: window.text.count("one two") == 2)
        window.press("C-c")
        until(lambda: window.text.count("(stopped)") == 2)
        window.press("C-c")  # for the second time, and nothing runs
        window.shows("ended with 0")
    with terminal("run", "tiny-a", "--url", router.url, environ=environ) as window:
        window.shows(PROMPT)
        window.press("C-c")
        window.shows("ctrl-C again, ctrl-D or /bye leaves")
        until(lambda: PROMPT in window.text.rpartition("leaves")[2])  # before it, a key is nobody's
        window.press("C-d")
        window.shows("ended with 0")


def _busy(router: Router) -> int:
    return int(router.client.get("/router/state").json()["totals"]["running"])


HOSTILE = "\x1b]0;owned\x07\x1b]52;c;aGFja2Vk\x07\x1b[2J\x1b[31mred\x9b2J\r>>> fake prompt\u202e\nnext"


def test_a_terminal_shows_what_a_model_writes_and_obeys_none_of_it(  # B-O6
    routers: Starter, tiny_models: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    script = rules(tmp_path, {"reasoning": f"hm {HOSTILE}", "text": f"safe {HOSTILE}"})
    router = routers(
        "--engine", FAKE, "--models-dir", str(tiny_models), FAKE_SCRIPT=script, FAKE_SAY="log \x1b[2J here"
    )
    with terminal("run", "tiny-a", "--url", router.url, width=120, environ=environ) as window:
        title = window.title
        window.shows(PROMPT)
        window.enter("Hello")
        window.shows("safe", "next", PROMPT)
        for text in (
            r"hm \x1b]0;owned\x07\x1b]52;c;aGFja2Vk",
            r"safe \x1b]0;owned\x07",
            r"\x1b[31mred\x9b2J\r>>> fake",
        ):
            assert text in window.text
        assert (window.title, window.clipboard) == (title, "")
        assert ">>> Hello" in window.text, "nothing was erased"
        thought = next(line for line in window.styled.splitlines() if "hm " in line)
        assert "\x1b[2m" in thought, "thoughts are dimmed"
        window.enter("/bye")
        window.shows("ended with 0")
    with terminal("logs", "tiny-a", "--url", router.url, environ=environ) as window:
        assert "ended with 0" in window.shows("here", "ended with")


def test_no_color_is_honoured(routers: Starter, tiny_models: Path, environ: dict[str, str], tmp_path: Path) -> None:
    script = rules(tmp_path, {"reasoning": "thinking hard", "text": "it is so"})
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), FAKE_SCRIPT=script)
    plain = {**environ, "NO_COLOR": "1"}
    with terminal("run", "tiny-a", "--url", router.url, environ=plain) as window:
        window.shows(PROMPT)
        window.enter("Hello")
        text = window.shows("it is so", PROMPT)
        assert text[text.index("(thinks)") :].splitlines()[:4] == ["(thinks)", "thinking hard", "(answers)", "it is so"]
        assert "\x1b[2m" not in window.styled
    with terminal("ps", "--url", router.url, environ=plain) as window:
        window.shows("tiny-a", "ended with 0")
        assert "\x1b[32m" not in window.styled
    with terminal("ps", "--url", router.url, environ=environ) as window:
        window.shows("tiny-a", "ended with 0")
        assert "\x1b[32m" in window.styled, "what is loaded is green"


def test_a_wait_says_for_what(routers: Starter, tiny_models: Path, environ: dict[str, str]) -> None:  # B-O6
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--models-max", "1", "--models-drain-grace", "0")
    router = routers(*flags, FAKE_CHUNK_SECONDS="0.05", FAKE_LOAD_SECONDS="3")
    with router.stream("tiny-a", 100_000) as events:
        next(events)
        with terminal("run", "tiny-b", "Hello", "--url", router.url, environ=environ, width=100) as window:
            window.shows("tiny-b waits for tiny-a to finish 1 request")
            events.response.close()
            window.shows("tiny-b: loading", "%")
            window.shows("one two three four five", "ended with 0")
            assert "waits for" not in window.text, "the answer stands alone"


def test_a_picture_is_dropped_on_the_line(
    routers: Starter, tiny_models: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    picture = tmp_path / "my cat.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    sent = tmp_path / "sent"
    router = routers("--engine", FAKE, "--models-dir", str(tiny_models), FAKE_SENT=str(sent))
    with terminal("run", "tiny-a", "--url", router.url, environ=environ) as window:
        window.shows(PROMPT)
        window.enter(f"what is {str(picture).replace(' ', chr(92) + ' ')}")
        window.shows("tiny-a takes no pictures", "one two three")
    [chat] = [json.loads(line) for line in sent.read_text().splitlines()]
    assert isinstance(chat["messages"][0]["content"], str)


def test_a_model_that_sees_gets_the_picture(environ: dict[str, str], tmp_path: Path) -> None:
    """Only pictures: a path of any other file is text."""
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    (tmp_path / "key.png").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")

    def answer(asked: Asked) -> Reply:
        if asked.path.startswith("/v1/models/"):
            return Reply({"id": "eyes", "architecture": {"input_modalities": ["text", "image"]}})
        if asked.path == "/v1/chat/completions":
            return Reply(pieces=lambda: iter([chunk("I see", finish="stop"), DONE]))
        return error("not here", 404)

    def chats() -> list[Asked]:
        return [asked for asked in server.asked if asked.method == "POST"]

    with stub(answer) as server, terminal("run", "eyes", "--url", server.url, width=150, environ=environ) as window:
        window.shows(PROMPT)
        window.enter(f"look: {tmp_path}/a.png and {tmp_path}/gone.png")
        window.shows("picture: a.png", "I see")
        picture, text = chats()[0].json["messages"][0]["content"]
        assert picture["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
        assert text["text"].startswith("look: ")
        window.enter(f"{tmp_path}/key.png")
        window.shows("is no picture that is known")
        assert len(chats()) == 1


def test_a_small_window_and_one_that_changes_its_size(real: Router, environ: dict[str, str]) -> None:
    assert real.chat("tiny-a").status_code == 200
    with terminal("ps", "--watch", "--url", real.url, width=100, height=10, environ=environ) as window:
        wide = window.shows("tiny-a", "MEMORY", "0 running, 0 waiting")
        assert "PID" in wide
        window.resize(40, 8)
        narrow = until(lambda: text if "PID" not in (text := window.text) and "tiny-a" in text else None)
        assert all(len(line) <= 40 for line in narrow.splitlines())
        window.resize(16, 3)
        until(lambda: "tiny-a" in window.text)
        window.resize(100, 10)
        window.shows("PID")
        window.press("C-c")
        window.shows("ended with 130")
    with terminal("run", "tiny-a", "--url", real.url, width=100, environ=environ) as window:
        window.shows(PROMPT)
        window.type("a long message that has not been sent")
        window.resize(20, 6)
        window.resize(60, 12)
        window.press("Enter")
        window.shows(PROMPT)


def test_ps_follows_what_happens(routers: Starter, tiny_models: Path, environ: dict[str, str], tmp_path: Path) -> None:
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--run-dir", str(tmp_path / "run"))
    router = routers(*flags, "--port", "0", FAKE_CHUNK_SECONDS="0.05")
    with terminal("ps", "-w", "--url", router.url, environ=environ) as window:
        window.shows("no model runs")
        with router.stream("tiny-a", 100_000) as events:
            next(events)
            window.shows("tiny-a", "loaded", "1 running")
        router.stop()
        window.shows("no router answers")


def test_logs_follow_a_router_that_starts_anew(
    routers: Starter, tiny_models: Path, environ: dict[str, str], tmp_path: Path
) -> None:  # B-O6
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--run-dir", str(tmp_path / "run"))
    first = routers(*flags, FAKE_SAY="says the first")
    assert first.chat("tiny-a").status_code == 200
    with terminal("logs", "tiny-a", "-f", "--run-dir", str(tmp_path / "run"), environ=environ, width=150) as window:
        window.shows("says the first")
        first.stop()
        window.shows("waiting for the router")
        second = routers(*flags, FAKE_SAY="says the second")  # at another port
        assert second.chat("tiny-a").status_code == 200
        text = window.shows("says the second")
        assert text.count("says the first") == 1
        window.press("C-c")
        window.shows("ended with 130")


def test_a_conversation_outlives_its_router(
    routers: Starter, tiny_models: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--run-dir", str(tmp_path / "run"))
    first = routers(*flags)
    with terminal("run", "tiny-a", "--run-dir", str(tmp_path / "run"), environ=environ) as window:
        window.shows(PROMPT)
        window.enter("Hello")
        window.shows("one two three four five")
        first.stop()
        second = routers(*flags)  # at another port
        window.enter("Again")
        window.shows("no router answers", f"the router is now {second.url}")
        window.press("Up", "Enter")
        until(lambda: window.text.count("one two three four five") == 2)
        window.enter("/show")
        window.shows("messages so far: 4")


def test_what_is_watched_goes_on_with_the_next_router(
    routers: Starter, tiny_models: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    flags = ("--engine", FAKE, "--models-dir", str(tiny_models), "--run-dir", str(tmp_path / "run"))
    first = routers(*flags)
    with terminal("ps", "--watch", "--run-dir", str(tmp_path / "run"), environ=environ) as window:
        window.shows("no model runs")
        first.stop()
        window.shows("no router answers")
        second = routers(*flags)  # at another port
        assert second.chat("tiny-a").status_code == 200
        window.shows("tiny-a", "loaded")


@pytest.mark.parametrize(
    ("words", "shown"),
    [(("run", "tiny-a"), PROMPT), (("logs", "-f"), "tiny-a: ready"), (("ps", "--watch"), "tiny-a")],
    ids=["run", "logs", "ps"],
)
def test_a_terminal_that_closes_ends_the_program(
    real: Router, environ: dict[str, str], words: tuple[str, ...], shown: str
) -> None:
    assert real.chat("tiny-a").status_code == 200
    with terminal(*words, "--url", real.url, environ=environ) as window:
        window.shows(shown)
        [pid] = _programs(window)
    until(lambda: not Path(f"/proc/{pid}").exists())


def _programs(window: Terminal) -> list[int]:
    import psutil

    shell = int(window._tmux("display-message", "-p", "#{pane_pid}"))
    return [child.pid for child in psutil.Process(shell).children()]
