"""Pydantic AI, over three APIs. The release that goes with LiteLLM does not go with this release of `anthropic`."""

from __future__ import annotations

import base64
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models.ollama import OllamaModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.ollama import OllamaProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.talk import talk


class Today(BaseModel):
    today: bool


def speaker(api: str, url: str, model: str) -> Any:
    match api:
        case "ollama":
            return OllamaModel(model, provider=OllamaProvider(base_url=f"{url}/v1"))
        case "responses":
            return OpenAIResponsesModel(model, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))
    return OpenAIChatModel(model, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))


def agent(api: str, url: str, model: str, **more: Any) -> Any:
    return Agent(speaker(api, url, model), instructions="Be brief.", **more)


def thoughts(messages: Any) -> str:
    parts = [part for message in messages if isinstance(message, ModelResponse) for part in message.parts]
    return "".join(part.content for part in parts if part.part_kind == "thinking")


async def turn(api: str, url: str, model: str, text: str) -> dict[str, Any]:
    wish: Any = {"openai_reasoning_summary": "auto"} if api == "responses" else None
    async with agent(api, url, model).run_stream(text, model_settings=wish) as run:
        said = await run.get_output()
        return {"text": said, "reasoning": thoughts(run.all_messages())}


async def tools(api: str, url: str, model: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    called = []
    made = agent(api, url, model)

    @made.tool_plain  # type: ignore[untyped-decorator]
    def rain(today: bool) -> str:
        """Does it rain?"""
        called.append(["rain", f'{{"today": {str(today).lower()}}}'])
        return "yes"

    async with made.run_stream(text) as run:
        return {"calls": called, "text": await run.get_output()}


async def resume(api: str, url: str, model: str, texts: list[str]) -> list[str]:
    made = agent(api, url, model)
    one = await made.run(texts[0])
    two = await made.run(texts[1], message_history=one.all_messages())
    return [one.output, two.output]


async def image(api: str, url: str, model: str, png: str) -> dict[str, Any]:
    picture = BinaryContent(base64.b64decode(png), media_type="image/png")
    return {"text": (await agent(api, url, model).run(["what is it?", picture])).output}


async def shape(api: str, url: str, model: str, schema: dict[str, Any]) -> Any:
    return (await agent(api, url, model, output_type=NativeOutput(Today)).run("hi")).output.model_dump()


talk({"turn": turn, "tools": tools, "resume": resume, "image": image, "shape": shape})
