"""A client that people really use, against the router on a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.conftest import Starter

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(routers: Starter, tiny_models: Path, engine: str) -> Iterator[openai.OpenAI]:
    flags = (
        "--models-dir",
        str(tiny_models),
        "--models-max",
        "1",
        "--api-key",
        "one,two",
        "--embeddings",
        "--pooling",
        "mean",
    )
    router = routers("--engine", engine, *flags)
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="two", max_retries=0) as made:
        yield made


def test_openai_switches_models_in_the_middle_of_a_conversation(client: openai.OpenAI) -> None:  # B-S1
    messages = list(HELLO)
    for model in ("tiny-a", "tiny-b", "tiny-a"):
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=8, seed=1, temperature=0)
        assert answer.model == model
        assert answer.usage
        assert answer.usage.completion_tokens == 8
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})
        messages.append({"role": "user", "content": "go on"})


def test_openai_streams_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny-c", messages=HELLO, max_tokens=16, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 16
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_openai_lists_models_and_finds_one(client: openai.OpenAI) -> None:  # B-C2
    assert [model.id for model in client.models.list()] == ["tiny-a", "tiny-b", "tiny-c"]
    assert client.models.retrieve("tiny-b").id == "tiny-b"


def test_openai_embeds(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="tiny-a", input=["one", "two"])
    assert [len(item.embedding) for item in answer.data] == [64, 64]


def test_openai_understands_the_errors(client: openai.OpenAI) -> None:  # B-C1
    with pytest.raises(openai.NotFoundError, match="tiny-a"):
        client.chat.completions.create(model="tiny-aa", messages=HELLO)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="three").models.list()
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny-a", messages=HELLO, extra_body={"max_tokens": "many"})
