"""Anthropic's own client, the asynchronous one."""

from __future__ import annotations

from typing import Any

from anthropic import AsyncAnthropic

from tests.clients.talk import talk


def at(url: str) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=url, api_key="none", max_retries=0)


async def chat(url: str, tokens: int, tools: Any = (), **asked: Any) -> dict[str, Any]:
    told: Any = [
        {"name": tool["name"], "input_schema": tool["parameters"]} for tool in (each["function"] for each in tools)
    ]
    answer = await at(url).messages.create(**asked, max_tokens=tokens, tools=told)
    return {"model": answer.model, "text": "".join(part.text for part in answer.content if part.type == "text")}


async def stream(url: str, tokens: int, **asked: Any) -> list[str]:
    async with at(url).messages.stream(**asked, max_tokens=tokens) as events:
        return [text async for text in events.text_stream]


async def leave(url: str, tokens: int, **asked: Any) -> None:
    async with at(url).messages.stream(**asked, max_tokens=tokens) as events:
        await anext(events.text_stream)


talk({"chat": chat, "stream": stream, "leave": leave})
