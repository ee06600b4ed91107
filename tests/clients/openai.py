"""OpenAI's own client, the asynchronous one."""

from __future__ import annotations

import json
from typing import Any

from openai import AsyncOpenAI

from tests.clients.talk import Function, talk

Messages = list[Any]

HI: Messages = [{"role": "user", "content": "hi"}]


def at(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def calls(message: Any) -> list[dict[str, Any]]:
    functions = [call.function for call in message.tool_calls]
    return [{"name": function.name, "arguments": json.loads(function.arguments)} for function in functions]


async def chat(url: str, tokens: int, **fields: Any) -> dict[str, Any]:
    answer = await at(url).chat.completions.create(**fields, max_tokens=tokens)
    return {"model": answer.model, "text": answer.choices[0].message.content}


async def stream(url: str, tokens: int, **fields: Any) -> list[str]:
    chunks = await at(url).chat.completions.create(**fields, max_tokens=tokens, stream=True)
    return [text async for chunk in chunks if (text := chunk.choices[0].delta.content)]


async def leave(url: str, tokens: int, **fields: Any) -> None:
    chunks = await at(url).chat.completions.create(**fields, max_tokens=tokens, stream=True)
    async for chunk in chunks:
        if chunk.choices[0].delta.content:
            break
    await chunks.close()


async def embed(url: str, model: str, texts: list[str]) -> list[list[float]]:
    answer = await at(url).embeddings.create(model=model, input=texts)
    return [item.embedding for item in answer.data]


async def call(url: str, messages: Messages, **fields: Any) -> dict[str, Any]:
    completions = at(url).chat.completions
    message = (await completions.create(**fields, messages=messages)).choices[0].message
    async with completions.stream(**fields, messages=messages) as events:
        streamed = (await events.get_final_completion()).choices[0].message
    results: Messages = [
        {"role": "tool", "tool_call_id": call.id, "content": "yes"} for call in message.tool_calls or ()
    ]
    answer = await completions.create(**fields, messages=[*messages, message, *results])
    return {"whole": calls(message), "streamed": calls(streamed), "text": answer.choices[0].message.content}


async def shape(url: str, schema: dict[str, Any], messages: Messages = HI, **fields: Any) -> Any:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    answer = await at(url).chat.completions.create(**fields, messages=messages, response_format=wanted)
    return json.loads(answer.choices[0].message.content or "")


async def turn(url: str, model: str, text: str) -> dict[str, Any]:
    """With the retries that it does by itself, as all functions below."""
    messages: Messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": text}]
    async with again(url).chat.completions.stream(model=model, messages=messages) as events:
        message: Any = (await events.get_final_completion()).choices[0].message
    return {"text": message.content, "reasoning": getattr(message, "reasoning_content", None) or ""}


async def tools(url: str, model: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    tool: Any = {"type": "function", "function": {"name": "rain", "parameters": schema, "strict": True}}
    messages: Messages = [{"role": "user", "content": text}]
    async with again(url).chat.completions.stream(model=model, messages=messages, tools=[tool]) as events:
        message = (await events.get_final_completion()).choices[0].message
    made: Any = message.tool_calls or ()
    messages += [message, *({"role": "tool", "tool_call_id": call.id, "content": "yes"} for call in made)]
    answer = await again(url).chat.completions.create(model=model, messages=messages, tools=[tool])
    names = [[call.function.name, call.function.arguments] for call in made]
    return {"calls": names, "text": answer.choices[0].message.content}


async def resume(url: str, model: str, texts: list[str]) -> list[str]:
    messages: Messages = []
    for text in texts:
        messages.append({"role": "user", "content": text})
        answer = await again(url).chat.completions.create(model=model, messages=messages)
        messages.append(answer.choices[0].message)
    return [message.content for message in messages[1::2]]


async def image(url: str, model: str, png: str) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}
    messages: Messages = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, picture]}]
    answer = await again(url).chat.completions.create(model=model, messages=messages)
    return {"text": answer.choices[0].message.content}


def again(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none")


conversations: dict[str, Function] = {"turn": turn, "tools": tools, "resume": resume, "image": image}
talk({"chat": chat, "stream": stream, "leave": leave, "embed": embed, "call": call, "shape": shape, **conversations})
