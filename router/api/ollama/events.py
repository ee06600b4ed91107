"""What a child's stream says, event by event, as `Delta`s: from chats and from completions.

Children are read with suspicion: an event of a wrong shape is an UpstreamFailed, never a defect of the router.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from router.errors import RouterError, UpstreamFailed
from router.units import limit_size
from router.wire.child_json import blame_child, parse_json, printable
from router.wire.response import Response as Answer

MAX_EVENT_BYTES = 8 << 20


class Delta(NamedTuple):
    """One event: the next piece of the answer. `calls` are pieces of tool calls, `reason` says why the answer ended."""

    content: str
    thinking: str = ""
    logprobs: list[dict[str, Any]] | None = None
    calls: list[dict[str, Any]] | None = None
    reason: str | None = None
    timings: Mapping[str, float] | None = None


async def event_objects(answer: Answer) -> AsyncIterator[tuple[dict[str, Any], int]]:
    """The JSON objects of a stream of events, each with its size in bytes.

    Raises the error that the child reports in an event, and UpstreamFailed for an event that makes no sense."""
    held = b""
    while not answer.is_at_end:
        *lines, held = (held + await answer.read()).split(b"\n")
        if len(held) > MAX_EVENT_BYTES:
            raise UpstreamFailed(f"The model's server sent an event of more than {limit_size(MAX_EVENT_BYTES)}.")
        for each in lines:
            if each.startswith(b"data: {"):
                with blame_child():
                    event = parse_json(each[6:])
                if "error" in event:
                    raise _reported_error(event["error"])
                yield event, len(each)


def delta_of_chat(event: Mapping[str, Any]) -> Delta:
    timings = event.get("timings")
    if not event.get("choices"):
        return Delta("", timings=timings)
    choice = event["choices"][0]
    delta = choice.get("delta") or {}
    return Delta(
        text_of(delta.get("content")),
        text_of(delta.get("reasoning_content")),
        (choice.get("logprobs") or {}).get("content"),
        delta.get("tool_calls"),
        text_of(choice.get("finish_reason")),
        timings,
    )


def delta_of_completion(event: Mapping[str, Any]) -> Delta:
    reason = (event.get("stop_type") or "stop") if event.get("stop") else None
    logprobs = event.get("completion_probabilities")
    return Delta(text_of(event.get("content")), "", logprobs, None, text_of(reason), event.get("timings"))


def text_of(value: Any) -> str:
    """A string; empty for None. Raises TypeError for anything else."""
    if not isinstance(value, str | None):
        raise TypeError(f"a {type(value).__name__} where text belongs")
    return value or ""


def count_of(value: Any) -> float:
    """A number that is only shown; 0 if it is missing or impossible."""
    return value if isinstance(value, int | float) and 0 <= value < 1e15 else 0


def _reported_error(error: Any) -> RouterError:
    fields = error if isinstance(error, dict) else {"message": error}
    failure = UpstreamFailed(printable(fields.get("message")))
    failure.status = code if isinstance(code := fields.get("code"), int) and 400 <= code < 600 else failure.status
    return failure
