"""Lines of text that are written by template are those that are encoded whole."""

from __future__ import annotations

import json

import pytest

from router.api.ollama.reply import AnswerFields, TextLines, chat_fields, generate_fields

ODD = ["plain", 'a "b"', "\\", "\0", "\u2028", "☃", "\n", '"},"done":true']


@pytest.mark.parametrize("answer_fields", [chat_fields, generate_fields])
@pytest.mark.parametrize("are_thoughts", [False, True])
@pytest.mark.parametrize("model", ["qwen3:8b", 'a "b" %b \\', "\0", "\ud800"])
def test_a_line_for_each_piece(answer_fields: AnswerFields, are_thoughts: bool, model: str) -> None:
    told = TextLines(model, answer_fields).lines([*ODD, "", "end"], are_thoughts=are_thoughts)
    found = [json.loads(line) for line in told.decode().removesuffix("\n").split("\n")]
    times = {line.pop("created_at") for line in found}
    assert len(times) == 1
    assert times.pop().endswith("Z")
    texts = [*ODD, "end"]
    pairs = [("", text) if are_thoughts else (text, "") for text in texts]
    assert found == [{"model": model, **answer_fields(*pair, []), "done": False} for pair in pairs]


def test_nothing_is_said_of_nothing() -> None:
    assert TextLines("m", chat_fields).lines(["", ""], are_thoughts=False) == b""
