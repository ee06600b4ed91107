"""What a conversation sends."""

from __future__ import annotations

import pytest

from router.client.talk.conversation import PARAMETERS, Conversation
from router.errors import FlagError


def test_a_conversation_remembers_what_was_said() -> None:
    talk = Conversation("coder", "Be terse.")
    talk.ask("Hello")
    talk.answer("Hi")
    talk.ask("What is this?", ["data:image/png;base64,AA=="])
    body = talk.request()
    assert (body["model"], body["stream"]) == ("coder", True)
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][3]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "text", "text": "What is this?"},
    ]
    talk.forget_question()
    assert len(talk.turns) == 2
    talk.forget_question()
    assert len(talk.turns) == 2, "an answer is no question"
    talk.clear()
    talk.system = ""
    assert talk.request()["messages"] == []


def test_parameters() -> None:
    talk = Conversation("m")
    talk.set_parameter("temperature", ["0.2"])
    talk.set_parameter("num_predict", ["20"])
    talk.set_parameter("top-k", ["40"])
    talk.set_parameter("stop", ["a b", "\\n"])
    expected = {"temperature": 0.2, "max_tokens": 20, "top_k": 40, "stop": ["a b", "\n"]}
    assert {name: talk.request().get(name) for name in expected} == expected
    assert "temperature: 0.2" in talk.settings()
    talk.set_parameter("stop", ["default"])
    assert "stop" not in talk.request()


@pytest.mark.parametrize(
    ("name", "words", "fragment"),
    [
        ("temprature", ["1"], "did you mean temperature?"),
        ("temperature", ["hot"], "takes a number, not 'hot'"),
        ("temperature", ["nan"], "not so large"),
        ("seed", ["1.5"], "a whole number"),
        ("seed", ["1", "2"], "not '1 2'"),
        ("top_p", [], "needs a value"),
        ("num_ctx", ["4096"], "llama-router load MODEL --ctx-size"),
        ("xyzzy_plugh", ["1"], "there are temperature"),
    ],
)
def test_a_wrong_parameter_says_what_is_right(name: str, words: list[str], fragment: str) -> None:
    with pytest.raises(FlagError) as found:
        Conversation("m").set_parameter(name, words)
    assert fragment in found.value.message


@pytest.mark.parametrize(
    ("level", "fields"),
    [("on", {"enable_thinking": True}), ("off", {"enable_thinking": False}), ("high", {"reasoning_effort": "high"})],
)
def test_thinking(level: str, fields: dict[str, object]) -> None:
    talk = Conversation("m")
    talk.set_think(level)
    assert fields.items() <= talk.request().items()
    talk.set_think("default")
    assert not fields.keys() & talk.request().keys()
    with pytest.raises(FlagError, match="not 'much'"):
        talk.set_think("much")


def test_every_parameter_takes_a_value() -> None:
    talk = Conversation("m")
    for name in PARAMETERS:
        talk.set_parameter(name, ["1"])
    assert set(PARAMETERS) <= talk.request().keys()
