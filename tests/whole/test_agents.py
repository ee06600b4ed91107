"""Claude Code and Codex, the programs themselves, over a router with a scripted engine (tests/scripted.py).

Each run has a home of its own, and reaches nothing but the router.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import INSTALL, MODULES, Elsewhere, in_front
from tests.routers import FAKE, Router, start
from tests.scripted import TEMPLATES, TOO_LONG, Script, presets, red, text_of

PATIENCE_S = 60
PROVIDER = """
model_provider = "router"
check_for_update_on_startup = false
[model_providers.router]
name = "router"
base_url = "{url}/v1"
wire_api = "responses"
[analytics]
enabled = false
[features]
plugins = false  # it would look for some on GitHub
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Script:
    return Script(tmp_path_factory.mktemp("script"))


@pytest.fixture(scope="module")
def router(script: Script, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("agents")
    (folder / "tiny.gguf").symlink_to(tiny_models / "tiny-a.gguf")
    (folder / "models.ini").write_text(presets(folder / "tiny.gguf"))
    flags = ("--engine", FAKE, "--models-preset", str(folder / "models.ini"), "--claude-map", "claude-*=opt-in")
    made = start(folder / "router", *flags, **script.environ)
    yield made
    made.stop()


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of an agent: its home, and a proxy for all other hosts, which nobody asks."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    with Elsewhere() as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, args=(0.05,), daemon=True).start()
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), elsewhere.url)
        yield {**proxies, "no_proxy": "127.0.0.1", "PATH": os.defpath, "HOME": str(tmp_path / "home")}
        elsewhere.shutdown()
        assert elsewhere.requests == []


def program(pattern: str) -> str:
    """The program itself, out of the package for this machine."""
    found = sorted(MODULES.glob(pattern))
    assert found, INSTALL
    return str(found[0])


def run(command: list[str], folder: Path, environ: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stdout, done.stderr
    return done.stdout


class Claude:
    """Claude Code without its terminal; `url` may be changed."""

    def __init__(self, url: str, folder: Path, environ: dict[str, str]) -> None:
        self.url, self.folder, self._environ = url, folder, environ

    def ask(self, model: str, prompt: str, *flags: str) -> dict[str, Any]:
        quiet = ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_AUTOUPDATER", "DISABLE_TELEMETRY")
        own = {"ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_AUTH_TOKEN": "none", **dict.fromkeys(quiet, "1")}
        claude = program("@anthropic-ai/claude-code-*/claude")
        command = [claude, "-p", prompt, "--model", model, "--output-format", "json", *flags]
        return dict(json.loads(run(command, self.folder, {**self._environ, **own})))


class Codex:
    """Codex without its terminal; `url` may be changed."""

    def __init__(self, url: str, folder: Path, environ: dict[str, str]) -> None:
        self.url, self.folder, self._environ = url, folder, environ

    def ask(self, model: str, prompt: str, *flags: str, resume: str = "") -> list[dict[str, Any]]:
        """Its events."""
        home = Path(self._environ["HOME"], ".codex")
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(PROVIDER.format(url=self.url))
        codex = program("@openai/codex-*/vendor/*/bin/codex")
        command = [codex, "exec", *(["resume", resume] if resume else []), "--json", "--skip-git-repo-check"]
        command += ["--model", model, "--dangerously-bypass-approvals-and-sandbox", *flags, "--", prompt]
        return [json.loads(line) for line in run(command, self.folder, self._environ).splitlines()]


def said(events: list[dict[str, Any]]) -> str:
    """The last text of a run of Codex."""
    assert events[-1]["type"] == "turn.completed", events
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return str([item["text"] for item in items if item["type"] == "agent_message"][-1])


def complaint(events: list[dict[str, Any]]) -> str:
    """Why a run of Codex failed."""
    assert events[-1]["type"] == "turn.failed", events
    return str(events[-1]["error"]["message"])


@pytest.fixture
def claude(router: Router, tmp_path: Path, environ: dict[str, str]) -> Claude:
    return Claude(router.url, tmp_path / "work", environ)


@pytest.fixture
def codex(router: Router, tmp_path: Path, environ: dict[str, str]) -> Codex:
    return Codex(router.url, tmp_path / "work", environ)


# Claude Code


@pytest.mark.parametrize("model", [*TEMPLATES, "claude-any"])
def test_claude_code_has_a_conversation(claude: Claude, script: Script, model: str) -> None:  # B-C3 B-C8
    script.play(
        {"contains": "and again", "text": "Hello again."},
        {"contains": "how are you", "reasoning": "They ask how I am.", "text": "I am well."},
    )
    answer = claude.ask(model, "how are you?")
    assert (answer["result"], answer["is_error"], answer["num_turns"]) == ("I am well.", False, 1)
    assert answer["usage"]["input_tokens"] > 1000
    again = claude.ask(model, "and again?", "--resume", answer["session_id"])
    assert again["result"] == "Hello again."
    first, second = script.sent()
    assert first["stream"]
    texts = [(message["role"], text_of(message)) for message in second["messages"] if message["role"] != "system"]
    (_, asked), answered, (_, asked_again) = texts
    assert "how are you?" in asked
    assert answered == ("assistant", "I am well.")
    assert "and again?" in asked_again
    system = [index for index, message in enumerate(second["messages"]) if message["role"] == "system"]
    assert system == [0] or model != "strict"


@pytest.mark.parametrize("model", TEMPLATES)
def test_claude_code_calls_tools(claude: Claude, script: Script, model: str) -> None:
    """Two in one answer, after thoughts and a text."""
    note = claude.folder / "note.txt"
    note.write_text("forty-two\n")
    read = {"name": "Read", "arguments": {"file_path": str(note)}}
    echo = {"name": "Bash", "arguments": {"command": "echo six by $((4+3))", "description": "says it"}}
    script.play(
        {"after": "tool", "text": "It is 42."},
        {"after": "user", "tool": "Read", "reasoning": "Look.", "text": "I look.", "calls": [read, echo]},
    )
    answer = claude.ask(model, "what is it?", "--allowedTools", "Read", "Bash(echo:*)")
    assert (answer["result"], answer["is_error"]) == ("It is 42.", False)
    *_, asked, one, two = script.sent()[-1]["messages"]
    assert text_of(asked) == "I look."
    assert [call["function"]["name"] for call in asked["tool_calls"]] == ["Read", "Bash"]
    assert [result["tool_call_id"] for result in (one, two)] == [call["id"] for call in asked["tool_calls"]]
    assert "forty-two" in text_of(one)
    assert "six by 7" in text_of(two)


def look(folder: Path) -> dict[str, Any]:
    """A call that reads a picture."""
    (folder / "red.png").write_bytes(red())
    return {"name": "Read", "arguments": {"file_path": str(folder / "red.png")}}


def test_claude_code_shows_an_image_that_it_reads(claude: Claude, script: Script) -> None:
    script.play(
        {"after": "user", "contains": "what colour", "calls": [look(claude.folder)]},
        {"text": "It is red."},
    )
    assert claude.ask("seeing", "what colour is it?", "--allowedTools", "Read")["result"] == "It is red."
    assert pictures(script.sent()[-1]) == 1


def test_claude_code_learns_that_a_model_sees_no_images(claude: Claude, router: Router, script: Script) -> None:
    """It asks once, and not ten times.  # B-C11"""
    script.play({"after": "user", "calls": [look(claude.folder)]}, {"text": "Never said."})
    with in_front(router) as front:
        claude.url = front.url
        answer = claude.ask("opt-in", "what colour is it?", "--allowedTools", "Read")
    assert answer["is_error"]
    assert "see images" in answer["result"]
    assert front.count <= 3
    assert len(script.sent()) == 1


def test_claude_code_understands_too_long_a_prompt(claude: Claude, script: Script) -> None:  # B-C11
    script.play({"error": TOO_LONG})
    answer = claude.ask("opt-in", "how are you?")
    assert answer["is_error"]
    assert answer["result"].startswith("Prompt is too long")
    assert len(script.sent()) == 1


# Codex


@pytest.mark.parametrize("model", TEMPLATES)
def test_codex_has_a_conversation(codex: Codex, script: Script, model: str) -> None:  # B-C8 B-C10
    script.play(
        {"contains": "and again", "text": "Hello again."},
        {"contains": "how are you", "reasoning": "They ask how I am.", "text": "I am well."},
    )
    events = codex.ask(model, "how are you?")
    assert said(events) == "I am well."
    assert events[-1]["usage"]["input_tokens"] > 1000
    (session,) = [event["thread_id"] for event in events if event["type"] == "thread.started"]
    assert said(codex.ask(model, "and again?", resume=session)) == "Hello again."
    second = script.sent()[-1]
    assert [text_of(message) for message in second["messages"] if message["role"] == "assistant"] == ["I am well."]
    system = [index for index, each in enumerate(second["messages"]) if each["role"] in ("system", "developer")]
    assert system == [0] or model != "strict"


@pytest.mark.parametrize("model", TEMPLATES)
def test_codex_calls_tools(codex: Codex, script: Script, model: str) -> None:
    call = {"name": "exec_command", "arguments": {"cmd": "echo six by $((4+3))"}}
    script.play(
        {"after": "tool", "text": "It is 42."},
        {"after": "user", "tool": "exec_command", "reasoning": "Look.", "text": "I look.", "calls": [call]},
    )
    assert said(codex.ask(model, "what is it?")) == "It is 42."
    *_, asked, result = script.sent()[-1]["messages"]
    assert asked["tool_calls"][0]["id"] == result["tool_call_id"]
    assert "six by 7" in text_of(result)


def test_codex_shows_an_image(codex: Codex, script: Script) -> None:
    script.play({"text": "It is red."})
    (codex.folder / "red.png").write_bytes(red())
    assert said(codex.ask("seeing", "what colour is it?", "--image", "red.png")) == "It is red."
    assert pictures(script.sent()[-1]) == 1


def test_codex_learns_that_a_model_sees_no_images(codex: Codex, router: Router, script: Script) -> None:  # B-C11
    script.play({"text": "Never said."})
    (codex.folder / "red.png").write_bytes(red())
    with in_front(router) as front:
        codex.url = front.url
        assert "see images" in complaint(codex.ask("opt-in", "what colour is it?", "--image", "red.png"))
    assert front.count == 1
    assert script.sent() == []


def test_codex_understands_too_long_a_prompt(codex: Codex, script: Script) -> None:  # B-C11
    script.play({"error": TOO_LONG})
    assert "context window" in complaint(codex.ask("opt-in", "how are you?"))
    assert len(script.sent()) == 1


def pictures(chat: dict[str, Any]) -> int:
    """How many the engine got."""
    lists = [message["content"] for message in chat["messages"] if isinstance(message.get("content"), list)]
    return sum(part["type"] == "image_url" for parts in lists for part in parts)
