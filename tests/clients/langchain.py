"""LangChain's models over three APIs: openai, responses, ollama."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessageChunk, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.clients.talk import talk

Messages = list[dict[str, Any]]


def speaker(api: str, url: str, model: str, tokens: int | None = None) -> BaseChatModel:
    if api == "ollama":
        return ChatOllama(model=model, base_url=url, num_predict=tokens)
    responses = api == "responses"
    return ChatOpenAI(
        model=model, base_url=f"{url}/v1", api_key="none", max_tokens=tokens, max_retries=0, use_responses_api=responses
    )


def embedder(api: str, url: str, model: str) -> Embeddings:
    if api == "ollama":
        return OllamaEmbeddings(model=model, base_url=url)
    # With the check it would send OpenAI's token numbers instead of text.
    return OpenAIEmbeddings(model=model, base_url=f"{url}/v1", api_key="none", check_embedding_ctx_length=False)


def calls(message: Any) -> list[dict[str, Any]]:
    return [{"name": call["name"], "arguments": call["args"]} for call in message.tool_calls]


async def chat(
    api: str, url: str, model: str, messages: Messages, tokens: int, tools: list[Any] | None = None
) -> dict[str, Any]:
    chain = speaker(api, url, model, tokens)
    answer = await (chain.bind_tools(tools) if tools else chain).ainvoke(messages)
    metadata = answer.response_metadata
    return {"model": metadata.get("model_name") or metadata["model"], "text": answer.text}


async def stream(api: str, url: str, model: str, messages: Messages, tokens: int) -> list[str]:
    return [chunk.text for chunk in speaker(api, url, model, tokens).stream(messages) if chunk.text]


async def leave(api: str, url: str, model: str, messages: Messages, tokens: int) -> None:
    chunks = speaker(api, url, model, tokens).astream(messages)
    async for chunk in chunks:
        if chunk.text:
            break
    await chunks.aclose()


async def embed(api: str, url: str, model: str, texts: list[str]) -> Any:
    return await embedder(api, url, model).aembed_documents(texts)


async def call(api: str, url: str, model: str, messages: Messages, tools: list[Any]) -> dict[str, Any]:
    chain = speaker(api, url, model).bind_tools(tools)
    message = chain.invoke(messages)
    streamed: BaseMessageChunk | None = None
    async for chunk in chain.astream(messages):
        streamed = streamed + chunk if streamed else chunk
    results = [ToolMessage("yes", tool_call_id=call["id"]) for call in message.tool_calls]
    answer = await chain.ainvoke([*messages, message, *results])
    return {"whole": calls(message), "streamed": calls(streamed), "text": answer.content}


async def shape(api: str, url: str, model: str, messages: Messages, schema: dict[str, Any]) -> Any:
    return speaker(api, url, model).with_structured_output(schema, method="json_schema").invoke(messages)


talk({"chat": chat, "stream": stream, "leave": leave, "embed": embed, "call": call, "shape": shape})
