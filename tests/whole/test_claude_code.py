"""Claude Code over a router whose engine is scripted (tests/scripted.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.demo import write_tiny
from tests.agents import Claude, pictures, sealed
from tests.conftest import Starter
from tests.programs import in_front
from tests.routers import Router
from tests.scripted import TEMPLATES, TOO_LONG, Script, presets, red, text_of


@pytest.fixture
def claude(scripted: Router, tmp_path: Path) -> Iterator[Claude]:
    with sealed(tmp_path) as environ:
        yield Claude(scripted.url, tmp_path / "work", environ)


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


def test_claude_code_learns_that_a_model_sees_no_images(claude: Claude, scripted: Router, script: Script) -> None:
    """It goes on without the image, and does not ask ten times.  # B-C11"""
    script.play({"after": "user", "calls": [look(claude.folder)]}, {"text": "I saw no image."})
    with in_front(scripted) as front:
        claude.url = front.url
        answer = claude.ask("opt-in", "what colour is it?", "--allowedTools", "Read")
    assert (answer["result"], answer["is_error"]) == ("I saw no image.", False)
    asked, again = script.sent()
    assert pictures(asked) == pictures(again) == 0
    assert front.count <= 4


def test_claude_code_understands_too_long_a_prompt(claude: Claude, script: Script) -> None:  # B-C11
    script.play({"error": TOO_LONG})
    answer = claude.ask("opt-in", "how are you?")
    assert answer["is_error"]
    assert answer["result"].startswith("Prompt is too long")
    assert len(script.sent()) == 1


def test_claude_code_on_a_real_engine_with_a_strict_template(engine: str, routers: Starter, tmp_path: Path) -> None:
    """The engine itself would refuse its late system message.  # B-C8"""
    write_tiny(tmp_path / "tiny.gguf", context=32768)
    (tmp_path / "models.ini").write_text(presets(tmp_path / "tiny.gguf"))
    router = routers("--engine", engine, "--models-preset", str(tmp_path / "models.ini"), "--ctx-size", "32768")
    with sealed(tmp_path) as environ:
        claude = Claude(router.url, tmp_path / "work", {**environ, "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "16"})
        answer = claude.ask("strict", "how are you?", "--tools", "", "--system-prompt", "Be brief.")
    assert answer["usage"]["input_tokens"] > 1000, answer
    assert answer["usage"]["output_tokens"] >= 16, answer
    assert answer.get("api_error_status") is None, "nothing was refused, though the answer was too long for this client"
