"""LiteLLM over two APIs: openai and ollama."""

from __future__ import annotations

import json
from typing import Any

import litellm

from tests.clients.talk import Function, talk

Messages = list[dict[str, Any]]

litellm.telemetry = False
litellm.suppress_debug_info = True


def at(api: str, url: str, model: str, embeds: bool = False) -> dict[str, Any]:
    if api == "ollama":
        return {"model": f"{'ollama' if embeds else 'ollama_chat'}/{model}", "api_base": url}
    if api == "anthropic":
        return {"model": f"anthropic/{model}", "api_base": url, "api_key": "none", "max_tokens": 3000}
    if api == "responses":
        return {"model": f"openai/responses/{model}", "api_base": f"{url}/v1", "api_key": "none"}
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


async def turn(api: str, url: str, model: str, text: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    wish = {"reasoning_effort": {"effort": "low", "summary": "auto"}} if api == "responses" else {}
    fields = at(api, url, model) | wish
    chunks = [chunk async for chunk in await litellm.acompletion(**fields, messages=messages, stream=True)]
    message = litellm.stream_chunk_builder(chunks).choices[0].message
    return {"text": message.content, "reasoning": getattr(message, "reasoning_content", None) or ""}


async def tools(api: str, url: str, model: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "rain", "parameters": schema}}
    fields = {**at(api, url, model), "tools": [tool]}
    messages: Messages = [{"role": "user", "content": text}]
    if api == "responses":  # it would make up a stream of its own, in which the arguments stand twice
        message = (await litellm.acompletion(**fields, messages=messages)).choices[0].message
    else:
        chunks = [chunk async for chunk in await litellm.acompletion(**fields, messages=messages, stream=True)]
        message = litellm.stream_chunk_builder(chunks).choices[0].message
    made = message.tool_calls or ()
    messages.append(message.model_dump())
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "yes"} for call in made]
    answer = await litellm.acompletion(**fields, messages=messages)
    names = [[call.function.name, call.function.arguments] for call in made]
    return {"calls": names, "text": answer.choices[0].message.content}


async def resume(api: str, url: str, model: str, texts: list[str]) -> list[str]:
    messages: Messages = []
    for text in texts:
        messages.append({"role": "user", "content": text})
        answer = await litellm.acompletion(**at(api, url, model), messages=messages)
        messages.append(answer.choices[0].message.model_dump())
    return [message["content"] for message in messages[1::2]]


async def image(api: str, url: str, model: str, png: str) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}
    messages: Messages = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, picture]}]
    answer = await litellm.acompletion(**at(api, url, model), messages=messages)
    return {"text": answer.choices[0].message.content}


conversations: dict[str, Function] = {"turn": turn, "tools": tools, "resume": resume, "image": image}
talk({"chat": chat, "stream": stream, "leave": leave, "embed": embed, "call": call, "shape": shape, **conversations})
