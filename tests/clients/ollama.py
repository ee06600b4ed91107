"""Ollama's own client."""

from __future__ import annotations

import json
from typing import Any

from ollama import AsyncClient

from tests.clients.talk import talk

Messages = list[Any]


async def turn(url: str, model: str, text: str) -> dict[str, Any]:
    messages: Messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    chunks = [chunk async for chunk in await AsyncClient(url).chat(model, messages, stream=True, think=True)]
    thoughts = "".join(chunk.message.thinking or "" for chunk in chunks)
    return {"text": "".join(chunk.message.content or "" for chunk in chunks), "reasoning": thoughts}


async def tools(url: str, model: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    tool: Any = {"type": "function", "function": {"name": "rain", "parameters": schema}}
    messages: Messages = [{"role": "user", "content": text}]
    chunks = [chunk.message async for chunk in await AsyncClient(url).chat(model, messages, tools=[tool], stream=True)]
    made = [call for message in chunks for call in message.tool_calls or ()]
    said = "".join(message.content or "" for message in chunks)
    messages.append({"role": "assistant", "content": said, "tool_calls": made})
    messages += [{"role": "tool", "tool_name": call.function.name, "content": "yes"} for call in made]
    answer = await AsyncClient(url).chat(model, messages, tools=[tool])
    names = [[call.function.name, json.dumps(call.function.arguments)] for call in made]
    return {"calls": names, "text": answer.message.content}


async def resume(url: str, model: str, texts: list[str]) -> list[str]:
    messages: Messages = []
    for text in texts:
        messages.append({"role": "user", "content": text})
        messages.append((await AsyncClient(url).chat(model, messages)).message)
    return [message.content for message in messages[1::2]]


async def image(url: str, model: str, png: str) -> dict[str, Any]:
    messages: Messages = [{"role": "user", "content": "what is it?", "images": [png]}]
    return {"text": (await AsyncClient(url).chat(model, messages)).message.content}


async def shape(url: str, model: str, schema: dict[str, Any]) -> Any:
    answer = await AsyncClient(url).chat(model, [{"role": "user", "content": "hi"}], format=schema)
    return json.loads(answer.message.content or "")


async def grow(url: str, model: str, other: str, turns: int) -> dict[str, Any]:
    """A chat that outgrows the context, with a model that is kept for ever; another model is asked in between."""
    messages: Messages = [{"role": "system", "content": "Be brief."}]
    counts = []
    client = AsyncClient(url)
    for number in range(turns):
        messages.append({"role": "user", "content": f"turn {number} " + "and on " * 20})
        answer = await client.chat(model, messages, keep_alive=-1, options={"num_predict": 16})
        messages.append(answer.message)
        counts.append(answer.prompt_eval_count)
        if number % 4 == 1:
            words: Messages = [{"role": "user", "content": "hi"}]
            assert (await client.chat(other, words, options={"num_predict": 4})).message.content
    return {"counts": counts}


talk({"turn": turn, "tools": tools, "resume": resume, "image": image, "shape": shape, "grow": grow})
