"""OpenAI's own client and the Responses API, with the helpers that check each event of a stream."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.clients.talk import talk

Items = list[Any]


class Today(BaseModel):
    today: bool


def at(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none")


def thoughts(response: Any) -> str:
    items = [item for item in response.output if item.type == "reasoning"]
    return "".join(part.text for item in items for part in item.content or item.summary)


async def streamed(url: str, **fields: Any) -> Any:
    async with at(url).responses.stream(**fields) as events:
        numbers = [event.sequence_number async for event in events]
        assert numbers == list(range(len(numbers)))
        return await events.get_final_response()


async def turn(url: str, model: str, text: str) -> dict[str, Any]:
    response = await streamed(url, model=model, input=text, instructions="Be brief.")
    return {"text": response.output_text, "reasoning": thoughts(response), "status": response.status}


async def tools(url: str, model: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    tool: Any = {"type": "function", "name": "rain", "description": "Does it rain?", "parameters": schema}
    items: Items = [{"role": "user", "content": text}]
    fields: Any = {"model": model, "tools": [tool | {"strict": True}], "include": ["reasoning.encrypted_content"]}
    response = await streamed(url, input=items, store=False, **fields)
    made = [item for item in response.output if item.type == "function_call"]
    items += response.output
    items += [{"type": "function_call_output", "call_id": item.call_id, "output": "yes"} for item in made]
    again = await streamed(url, input=items, store=False, **fields)
    return {"calls": [[item.name, item.arguments] for item in made], "text": again.output_text}


async def resume(url: str, model: str, texts: list[str]) -> list[str]:
    one = await at(url).responses.create(model=model, input=texts[0])
    two = await at(url).responses.create(model=model, input=texts[1], previous_response_id=one.id)
    return [one.output_text, two.output_text]


async def image(url: str, model: str, png: str) -> dict[str, Any]:
    parts: Items = [
        {"type": "input_text", "text": "what is it?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{png}", "detail": "auto"},
    ]
    response = await at(url).responses.create(model=model, input=[{"role": "user", "content": parts}])
    return {"text": response.output_text}


async def shape(url: str, model: str, schema: dict[str, Any]) -> Any:
    response = await at(url).responses.parse(model=model, input="hi", text_format=Today)
    assert response.output_parsed
    return response.output_parsed.model_dump()


talk({"turn": turn, "tools": tools, "resume": resume, "image": image, "shape": shape})
