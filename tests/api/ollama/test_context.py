"""Chats that outgrow the context."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ollama import Message, ResponseError

from router.api.ollama import reply
from router.api.ollama.context import COUNT, Fitting, possible_starts, without_turns
from router.api.ollama.generation import Generation
from router.api.ollama.prompt import CHAT, RAW
from router.api.ollama.reply import RequestClock
from router.errors import InvalidRequest, RouterError
from tests.api.ollama.asking import client_of, error_of
from tests.api.ollama.child import answer_of, delta, events
from tests.conftest import Starter
from tests.routers import Router


def chat(*roles: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": str(index)} for index, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("roles", "starts"),
    [
        ("sua", [2]),
        ("suaua u", [3, 5]),
        ("uauatat", [2, 3, 5]),
        ("uau", [2]),
        ("su", []),
        ("s", []),
        ("", []),
        ("susau", [4]),
        ("uat", [1]),
    ],
)
def test_a_chat_may_begin_with_a_turn_and_never_with_a_result(roles: str, starts: list[int]) -> None:  # B-C13
    words = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    messages = chat(*(words[letter] for letter in roles.replace(" ", "")))
    assert possible_starts(messages) == starts
    for start in starts:
        kept = without_turns(messages, start)
        assert kept[-1] is messages[-1]
        assert [m for m in messages if m["role"] == "system"] == [m for m in kept if m["role"] == "system"]


class Child:
    """An engine with a context of 100 tokens; a letter is a token. It counts nothing if it has no such route."""

    def __init__(self, *, counts: bool = True) -> None:
        self.counts = counts
        self.asked: list[tuple[bytes, Any]] = []

    def __call__(self, target: bytes, fields: Any) -> tuple[int, bytes]:
        self.asked.append((target, fields))
        if target == b"/tokenize":
            return 200, json.dumps({"tokens": list(range(len(fields["content"])))}).encode()
        text = fields["prompt"] if "prompt" in fields else [m["content"] for m in fields["messages"]]
        count = len(text) if "prompt" in fields else sum(map(len, text))
        if target == COUNT:
            return (200, json.dumps({"input_tokens": count}).encode()) if self.counts else (404, b"{}")
        if count >= 100:
            message = f"request ({count} tokens) exceeds the available context size (100 tokens), try increasing it"
            return 400, json.dumps({"error": {"message": message}}).encode()
        if target == RAW:
            return 200, events({"content": "a"}, {"content": "", "stop": True, "stop_type": "eos"})
        return 200, events(delta(content="a"), delta("stop"))

    @property
    def answered(self) -> Any:
        target, fields = self.asked[-1]
        assert target in (CHAT, RAW)
        return fields


def generation(fields: dict[str, Any], target: bytes = CHAT, **more: Any) -> Generation:
    fitting = Fitting(**{"truncate": True, "shift": True, "ends_at_context": False, "context": lambda: None, **more})
    body = json.dumps(fields).encode()
    return Generation("m", target, body, reply.chat_fields, RequestClock(), False, 0, fitting)


TURNS = [{"role": role, "content": role[0] * 20} for role in ("system", *("user", "assistant") * 20, "user")]


@pytest.mark.parametrize("counts", [True, False])
async def test_the_oldest_turns_go(tmp_path: Path, counts: bool) -> None:  # B-C13
    child = Child(counts=counts)
    (answer,) = await answer_of(tmp_path, generation({"messages": TURNS, "tools": [1]}), child, step=4096)
    assert answer["done"]
    assert child.answered["messages"] == [TURNS[0], *TURNS[-3:]], "which leaves an eighth for the answer"
    assert child.answered["tools"] == [1]
    assert len(child.asked) <= 8, "it is counted as often as the number of turns has digits"


async def test_a_chat_that_fits_is_sent_once(tmp_path: Path) -> None:
    child = Child()
    await answer_of(tmp_path, generation({"messages": TURNS[:4]}, context=lambda: 100_000), child, step=4096)
    assert [target for target, _ in child.asked] == [CHAT]


async def test_room_for_an_answer_is_kept(tmp_path: Path) -> None:
    messages = [{"role": role, "content": role[0] * 32} for role in ("user", "assistant", "user")]
    child = Child()
    await answer_of(tmp_path, generation({"messages": messages}, context=lambda: 100), child, step=4096)
    assert child.answered["messages"] == messages[-1:]
    child = Child()
    await answer_of(tmp_path, generation({"messages": messages}, context=lambda: 100, shift=False), child, step=4096)
    assert child.answered["messages"] == messages, "then the answer ends when the context is full"
    await answer_of(
        tmp_path,
        generation({"messages": messages, "n_predict": 50}, context=lambda: 100, shift=False, ends_at_context=True),
        child,
        step=4096,
    )
    assert child.answered["n_predict"] == 4


@pytest.mark.parametrize(
    ("messages", "more", "words"),
    [
        (TURNS, {"truncate": False}, '840 tokens.*at most 100.*"truncate"'),
        ([TURNS[0], {"role": "user", "content": "u" * 200}], {}, "220 tokens.*at most 100.*last message"),
        ([*TURNS, {"role": "user", "content": "u" * 90}], {}, "110 tokens.*at most 100.*last message"),
    ],
)
async def test_what_cannot_be_shortened_is_an_error_with_numbers(
    tmp_path: Path, messages: list[Any], more: dict[str, Any], words: str
) -> None:  # B-C13
    with pytest.raises(InvalidRequest, match=words):
        await answer_of(tmp_path, generation({"messages": messages}, **more), Child(), step=4096)


async def test_other_errors_stay(tmp_path: Path) -> None:
    def refuse(target: bytes, fields: Any) -> tuple[int, bytes]:
        return 400, b'{"error": {"message": "no such grammar (3 tokens)"}}'

    with pytest.raises(RouterError, match="grammar"):
        await answer_of(tmp_path, generation({"messages": TURNS}), refuse, step=4096)


async def test_a_raw_prompt_loses_its_start(tmp_path: Path) -> None:
    child = Child()
    await answer_of(tmp_path, generation({"prompt": "x" * 300}, RAW), child, step=4096)
    assert child.answered["prompt"] == list(range(300 - 88, 300))


@pytest.fixture
def small(engine: str, tiny_models: Path, routers: Starter) -> Router:
    flags = ("--models-dir", str(tiny_models), "--ctx-size", "512", "--parallel", "1")
    return routers("--engine", engine, *flags)


def test_a_long_chat_goes_on(small: Router) -> None:  # B-C13
    turns = [Message(role="system", content="Be kind.")]
    with client_of(small) as client:
        for turn in range(12):
            turns.append(Message(role="user", content=f"{turn} tell me more of it, and of all that follows"))
            answer = client.chat("tiny-a", turns, options={"num_predict": 32, "seed": 1, "temperature": 0})
            assert answer.done
            assert 0 < (answer.prompt_eval_count or 0) < 512
            turns.append(answer.message)
        assert (answer.prompt_eval_count or 0) > 100
        asked = {"model": "tiny-a", "messages": [turn.model_dump() for turn in turns], "truncate": False}
        refused = small.client.post("/api/chat", json=asked)
        assert refused.status_code == 400
        assert re.search(r"exceeds the context length: it has \d+ tokens, and at most 512", error_of(refused))
        with pytest.raises(ResponseError, match="last message") as caught:
            client.chat("tiny-a", [Message(role="user", content="word " * 4000)])
        assert caught.value.status_code == 400
        options = {"num_predict": 4, "seed": 1}
        assert client.generate("tiny-a", "word " * 4000, raw=True, options=options).done
