"""Anthropic's own client, the asynchronous one."""

from __future__ import annotations

from typing import Any

from anthropic import AsyncAnthropic

from tests.clients.talk import talk


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


talk({"chat": chat, "stream": stream, "leave": leave})
