"""LiteLLM over two APIs: openai and ollama."""

from __future__ import annotations

import json
from typing import Any

import litellm

from tests.clients.talk import talk

Messages = list[dict[str, Any]]

litellm.telemetry = False
litellm.suppress_debug_info = True


def at(api: str, url: str, model: str, embeds: bool = False) -> dict[str, Any]:
    if api == "ollama":
        return {"model": f"{'ollama' if embeds else 'ollama_chat'}/{model}", "api_base": url}
    return {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": "none"}


def calls(message: Any) -> list[dict[str, Any]]:
    functions = [call.function for call in message.tool_calls]
    return [{"name": function.name, "arguments": json.loads(function.arguments)} for function in functions]


async def chat(
    api: str, url: str, model: str, messages: Messages, tokens: int, tools: list[Any] | None = None
) -> dict[str, Any]:
    answer = litellm.completion(**at(api, url, model), messages=messages, max_tokens=tokens, tools=tools)
    return {"model": answer.model.rpartition("/")[2], "text": answer.choices[0].message.content}


async def stream(api: str, url: str, model: str, messages: Messages, tokens: int) -> list[str]:
    chunks = litellm.completion(**at(api, url, model), messages=messages, max_tokens=tokens, stream=True)
    return [text for chunk in chunks if (text := chunk.choices[0].delta.content)]


async def leave(api: str, url: str, model: str, messages: Messages, tokens: int) -> None:
    chunks = await litellm.acompletion(**at(api, url, model), messages=messages, max_tokens=tokens, stream=True)
    async for chunk in chunks:
        if chunk.choices[0].delta.content:
            break
    await chunks.aclose()


async def embed(api: str, url: str, model: str, texts: list[str]) -> list[list[float]]:
    answer = await litellm.aembedding(**at(api, url, model, embeds=True), input=texts)
    return [item["embedding"] for item in answer.data]


async def call(api: str, url: str, model: str, messages: Messages, tools: list[Any]) -> dict[str, Any]:
    fields = {**at(api, url, model), "tools": tools}
    message = litellm.completion(**fields, messages=messages).choices[0].message
    chunks = [chunk async for chunk in await litellm.acompletion(**fields, messages=messages, stream=True)]
    streamed = litellm.stream_chunk_builder(chunks)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "yes"} for call in message.tool_calls]
    answer = await litellm.acompletion(**fields, messages=[*messages, message.model_dump(), *results])
    text = answer.choices[0].message.content
    return {"whole": calls(message), "streamed": calls(streamed.choices[0].message), "text": text}


async def shape(api: str, url: str, model: str, messages: Messages, schema: dict[str, Any]) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    answer = await litellm.acompletion(**at(api, url, model), messages=messages, response_format=wanted)
    return json.loads(answer.choices[0].message.content)


talk({"chat": chat, "stream": stream, "leave": leave, "embed": embed, "call": call, "shape": shape})
