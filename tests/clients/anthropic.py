"""Anthropic's own client, the asynchronous one."""

from __future__ import annotations

import json
from typing import Any

from anthropic import AsyncAnthropic

from tests.clients.talk import Function, talk


def at(url: str) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=url, api_key="none", max_retries=0)


async def chat(url: str, tokens: int, tools: Any = (), **fields: Any) -> dict[str, Any]:
    anthropic_tools: Any = [
        {"name": tool["name"], "input_schema": tool["parameters"]} for tool in (each["function"] for each in tools)
    ]
    answer = await at(url).messages.create(**fields, max_tokens=tokens, tools=anthropic_tools)
    return {"model": answer.model, "text": "".join(part.text for part in answer.content if part.type == "text")}


async def stream(url: str, tokens: int, **fields: Any) -> list[str]:
    async with at(url).messages.stream(**fields, max_tokens=tokens) as events:
        return [text async for text in events.text_stream]


async def leave(url: str, tokens: int, **fields: Any) -> None:
    async with at(url).messages.stream(**fields, max_tokens=tokens) as events:
        await anext(events.text_stream)


def again(url: str) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=url, api_key="none")


def text_of(message: Any) -> str:
    return "".join(part.text for part in message.content if part.type == "text")


async def turn(url: str, model: str, text: str) -> dict[str, Any]:
    """With the retries that it does by itself, as all functions below."""
    messages: Any = [{"role": "user", "content": text}]
    fields: Any = {"model": model, "max_tokens": 3000, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    async with again(url).messages.stream(messages=messages, system="Be brief.", **fields) as events:
        message = await events.get_final_message()
    thoughts = [part.thinking for part in message.content if part.type == "thinking"]
    return {"text": text_of(message), "reasoning": "".join(thoughts)}


async def tools(url: str, model: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    messages: Any = [{"role": "user", "content": text}]
    fields: Any = {"model": model, "max_tokens": 300, "tools": [{"name": "rain", "input_schema": schema}]}
    async with again(url).messages.stream(messages=messages, **fields) as events:
        message = await events.get_final_message()
    made = [part for part in message.content if part.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": part.id, "content": "yes"} for part in made]
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    answer = await again(url).messages.create(messages=messages, **fields)
    return {"calls": [[part.name, json.dumps(part.input)] for part in made], "text": text_of(answer)}


async def resume(url: str, model: str, texts: list[str]) -> list[str]:
    messages: Any = []
    said = []
    for text in texts:
        messages.append({"role": "user", "content": text})
        answer = await again(url).messages.create(model=model, messages=messages, max_tokens=300)
        messages.append({"role": "assistant", "content": answer.content})
        said.append(text_of(answer))
    return said


async def image(url: str, model: str, png: str) -> dict[str, Any]:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png}}
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, picture]}]
    return {"text": text_of(await again(url).messages.create(model=model, messages=messages, max_tokens=300))}


async def shape(url: str, model: str, schema: dict[str, Any]) -> Any:
    messages: Any = [{"role": "user", "content": "hi"}]
    wanted: Any = {"format": {"type": "json_schema", "schema": {**schema, "additionalProperties": False}}}
    answer = await again(url).messages.create(model=model, messages=messages, max_tokens=300, output_config=wanted)
    return json.loads(text_of(answer))


conversations: dict[str, Function] = {"turn": turn, "tools": tools, "resume": resume, "image": image, "shape": shape}
talk({"chat": chat, "stream": stream, "leave": leave, **conversations})
