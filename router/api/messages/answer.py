"""PURE: a child's whole answer as a message; how many tokens it took and why it ended, for streams too."""

from __future__ import annotations

from random import getrandbits
from typing import Any

from router.api.chat_stream import CallPiece, Chunk, Usage, Verbose
from router.api.messages.request import AnswerShape
from router.errors import UpstreamFailed
from router.wire.child_json import parse_json

# Clients send thoughts back with the signature that they came with. The router does not check it.
SIGNATURE = "bGxhbWEtcm91dGVy"

_REASONS = {"tool_calls": "tool_use", "length": "max_tokens"}


def message(model: str, chunk: Chunk, shape: AnswerShape) -> dict[str, Any]:
    """The answer to a request without a stream. Raises UpstreamFailed."""
    choice = chunk.choices[0] if chunk.choices else None
    if choice is None or choice.message is None or not choice.finish_reason:
        raise UpstreamFailed("The model's answer ended before it was complete.")
    reason, word = stop_reason(choice.finish_reason, chunk.verbose, shape)
    ending = {"stop_reason": reason, "stop_sequence": word, "usage": usage_fields(chunk.usage or Usage(), shape)}
    content: list[dict[str, Any]] = []
    if shape.is_warmup:
        return {**head(model), "content": content, **ending}
    if thoughts := choice.message.reasoning_content:
        shown = thoughts if shape.shows_thinking else ""
        content.append({"type": "thinking", "thinking": shown, "signature": SIGNATURE})
    if text := (choice.message.content or "").removeprefix(shape.prefill):
        content.append({"type": "text", "text": text})
    for call in choice.message.tool_calls or ():
        block = _tool_use(call, is_cut=choice.finish_reason == "length")
        content += [block] if block else []
    return {**head(model), "content": content, **ending}


def head(model: str) -> dict[str, Any]:
    """The first fields of a message."""
    return {"id": f"msg_{getrandbits(96):024x}", "type": "message", "role": "assistant", "model": model}


def tool_use_id(id: str | None) -> str:
    """The id of a tool call; a new one if the child gave none."""
    return id or f"toolu_{getrandbits(96):024x}"


def stop_reason(reason: str, verbose: Verbose | None, shape: AnswerShape) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence`. Templates have words that end an answer too; those are no stop sequences."""
    if shape.is_warmup:
        return "max_tokens", None
    if reason == "stop":
        word = verbose.stopping_word if verbose else None
        return ("stop_sequence", word) if word and word in shape.stop_sequences else ("end_turn", None)
    return _REASONS.get(reason, "end_turn"), None


def usage_fields(usage: Usage, shape: AnswerShape) -> dict[str, int]:
    """Tokens that were in the cache are not among the `input_tokens`."""
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    return {
        "input_tokens": max(0, usage.prompt_tokens - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": 0 if shape.is_warmup else usage.completion_tokens,
    }


def _tool_use(call: CallPiece, is_cut: bool) -> dict[str, Any] | None:
    """None for a call that the limit of tokens cut off: its input is no object."""
    name = call.function.name if call.function else None
    try:
        given = parse_json((call.function.arguments or "{}").encode()) if call.function else None
    except ValueError:
        given = None
    if isinstance(given, dict) and name:
        return {"type": "tool_use", "id": tool_use_id(call.id), "name": name, "input": given}
    if is_cut:
        return None
    raise UpstreamFailed("The model called a tool with arguments that are no JSON object.")
