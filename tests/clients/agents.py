"""The Agents SDK of OpenAI, over both of its APIs."""

from __future__ import annotations

from typing import Any

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.clients.talk import talk

set_tracing_disabled(True)


class Today(BaseModel):
    today: bool


def agent(api: str, url: str, model: str, **more: Any) -> Any:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    speaker = (OpenAIResponsesModel if api == "responses" else OpenAIChatCompletionsModel)(model, client)
    return Agent(name="weather", instructions="Be brief.", model=speaker, **more)


async def streamed(run: Any) -> Any:
    async for _ in run.stream_events():
        pass
    return run


def thoughts(items: Any) -> str:
    raw = [item.raw_item for item in items if item.type == "reasoning_item"]
    return "".join(part.text for item in raw for part in item.content or item.summary)


async def turn(api: str, url: str, model: str, text: str) -> dict[str, Any]:
    run = await streamed(Runner.run_streamed(agent(api, url, model), text))
    return {"text": run.final_output, "reasoning": thoughts(run.new_items)}


async def tools(api: str, url: str, model: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    called = []

    @function_tool  # type: ignore[untyped-decorator]
    def rain(today: bool) -> str:
        """Does it rain?"""
        called.append(["rain", f'{{"today": {str(today).lower()}}}'])
        return "yes"

    run = await streamed(Runner.run_streamed(agent(api, url, model, tools=[rain]), text))
    return {"calls": called, "text": run.final_output}


async def resume(api: str, url: str, model: str, texts: list[str]) -> list[str]:
    session = SQLiteSession("one")
    return [(await Runner.run(agent(api, url, model), text, session=session)).final_output for text in texts]


async def image(api: str, url: str, model: str, png: str) -> dict[str, Any]:
    parts = [
        {"type": "input_text", "text": "what is it?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{png}", "detail": "auto"},
    ]
    words: Any = [{"role": "user", "content": parts}]
    return {"text": (await Runner.run(agent(api, url, model), words)).final_output}


async def shape(api: str, url: str, model: str, schema: dict[str, Any]) -> Any:
    return (await Runner.run(agent(api, url, model, output_type=Today), "hi")).final_output.model_dump()


talk({"turn": turn, "tools": tools, "resume": resume, "image": image, "shape": shape})
