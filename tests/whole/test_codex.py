"""Codex over a router whose engine is scripted (tests/scripted.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.demo import write_tiny
from tests.agents import Codex, pictures, sealed
from tests.conftest import Starter
from tests.programs import in_front
from tests.routers import Router
from tests.scripted import TEMPLATES, TOO_LONG, Script, presets, red, text_of

CONTEXT = 131072  # a letter is a token, and Codex says much
ENDING = '{"temperature": 0, "logit_bias": {"2": 100}}'  # which ends the answer: no tiny model does


@pytest.fixture
def codex(scripted: Router, tmp_path: Path) -> Iterator[Codex]:
    with sealed(tmp_path) as environ:
        yield Codex(scripted.url, tmp_path / "work", environ)


def said(events: list[dict[str, Any]]) -> str:
    """The last text of a run of Codex."""
    assert events[-1]["type"] == "turn.completed", events
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return str([item["text"] for item in items if item["type"] == "agent_message"][-1])


def complaint(events: list[dict[str, Any]]) -> str:
    """Why a run of Codex failed."""
    assert events[-1]["type"] == "turn.failed", events
    return str(events[-1]["error"]["message"])


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


def test_codex_learns_that_a_model_sees_no_images(codex: Codex, scripted: Router, script: Script) -> None:  # B-C11
    script.play({"text": "Never said."})
    (codex.folder / "red.png").write_bytes(red())
    with in_front(scripted) as front:
        codex.url = front.url
        assert "see images" in complaint(codex.ask("opt-in", "what colour is it?", "--image", "red.png"))
    assert front.count == 1
    assert script.sent() == []


def test_codex_understands_too_long_a_prompt(codex: Codex, script: Script) -> None:  # B-C11
    script.play({"error": TOO_LONG})
    assert "context window" in complaint(codex.ask("opt-in", "how are you?"))
    assert len(script.sent()) == 1


def test_codex_finds_the_models_of_ollama(codex: Codex, script: Script) -> None:
    """`--oss` asks for a version that it knows, and for the names of the models."""
    script.play({"text": "I am well."})
    assert said(codex.ask("opt-in", "how are you?", "--oss", "--local-provider", "ollama")) == "I am well."


def test_codex_on_a_real_engine_with_a_strict_template(engine: str, routers: Starter, tmp_path: Path) -> None:
    """Two turns. The engine itself would refuse its second system message, and the roles of its items.  # B-C8 B-C10"""
    write_tiny(tmp_path / "tiny.gguf", context=CONTEXT, layers=1, width=16, heads=2, kv_heads=1)
    (tmp_path / "brief.md").write_text("Be brief.")
    (tmp_path / "models.ini").write_text(f"[*]\nset-params = {ENDING}\n{presets(tmp_path / 'tiny.gguf')}")
    router = routers("--engine", engine, "--models-preset", str(tmp_path / "models.ini"), "--ctx-size", str(CONTEXT))
    with sealed(tmp_path) as environ:
        codex = Codex(router.url, tmp_path / "work", environ)
        brief = ("-c", f'model_instructions_file="{tmp_path}/brief.md"')
        events = codex.ask("strict", "how are you?", *brief)
        assert events[-1]["type"] == "turn.completed", events
        assert events[-1]["usage"]["input_tokens"] > 1000
        (session,) = [event["thread_id"] for event in events if event["type"] == "thread.started"]
        again = codex.ask("strict", "and again?", *brief, resume=session)
    assert again[-1]["type"] == "turn.completed", again
    assert again[-1]["usage"]["input_tokens"] > events[-1]["usage"]["input_tokens"]
