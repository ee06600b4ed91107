"""Chats that outgrow the context lose their oldest turns, as Ollama's do; prompts that are sent raw lose their start.

System messages and the last message stay. The engine counts the tokens, and it is asked a bounded number of times. Most
chats need no count at all: a short body certainly fits, and the engine itself refuses what does not fit.

Ollama shifts the context while it generates. llama-server does not, unless it was started so. Therefore room for an
answer is kept from the beginning, unless the request says `"shift": false`. `generation` calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from router.errors import ContextExceeded, RouterError
from router.proxy.body import in_thread_if_large, json_object
from router.proxy.error_response import read_upstream_error
from router.proxy.protocols import PostToChild
from router.proxy.rewrite import encode_json
from router.proxy.routing import TOKEN_LIMIT_FIELDS
from router.wire.child_json import blame_child, parse_json

COUNT = b"/v1/chat/completions/input_tokens"
MAX_COUNT_BYTES = 64 << 20  # of the child's answer; a count is short, the tokens of a raw prompt are not
# A body with fewer bytes than this for each token of the context fits: few texts have shorter tokens.
BYTES_PER_TOKEN = 2


def too_long(tokens: int, limit: int, remedy: str) -> ContextExceeded:
    return ContextExceeded(
        f"the input length exceeds the context length: it has {tokens} tokens, and at most {limit} are possible; "
        + remedy,
        tokens,
        limit,
    )


@dataclass(frozen=True, slots=True)
class Fitting:
    """How a request is made to fit into the context.

    `truncate`: the oldest turns go, else it is an error.
    `shift`: room for the answer is kept.
    `ends_at_context`: the process shifts the context, and the request does not want it. The answer ends when it is
    full.
    `context` is the context that one request has, in tokens, once the model serves; None if it is not known.
    """

    truncate: bool
    shift: bool
    ends_at_context: bool
    context: Callable[[], int | None]

    async def before(self, post: PostToChild, body: bytes, *, is_chat: bool) -> bytes:
        """The body to send. It is the same unless the prompt may fill the context. Raises RouterErrors."""
        limit = self.context()
        if not is_chat or not limit:
            return body
        is_near = len(body) > BYTES_PER_TOKEN * (limit - _room(limit, {}, self.shift)) and b'"image_url"' not in body
        if not (self.ends_at_context or (is_near and self.truncate and self.shift)):
            return body
        fields = await in_thread_if_large(len(body), json_object, body)
        tokens = await count(post, fields)
        if tokens is not None and tokens >= limit - _room(limit, fields, self.shift) and self.truncate and self.shift:
            fields, tokens = await self._shorter(post, fields, tokens, limit)
        if tokens is not None and self.ends_at_context:
            fields = _with_limit(fields, max(1, limit - tokens))
        return await in_thread_if_large(len(body), encode_json, fields, len(body))

    async def after(self, post: PostToChild, body: bytes, refusal: RouterError, *, is_chat: bool) -> bytes:
        """A shorter body, after the engine has refused this one. Raises ContextExceeded if there is none, and the
        `refusal` if it is about something else."""
        if not isinstance(refusal, ContextExceeded):
            raise refusal
        numbers = refusal.prompt, refusal.limit
        if not self.truncate:
            raise too_long(*numbers, 'shorten it, or leave out "truncate": false.')
        fields = await in_thread_if_large(len(body), json_object, body)
        if is_chat:
            fields, _ = await self._shorter(post, fields, *numbers)
        elif isinstance(fields.get("prompt"), str) and not fields.get("input_suffix"):
            fields = {**fields, "prompt": await self._last_tokens(post, fields, numbers[1])}
        else:
            raise too_long(*numbers, "shorten it, or load the model with a larger context.")
        return await in_thread_if_large(len(body), encode_json, fields, len(body))

    async def _shorter(
        self, post: PostToChild, fields: dict[str, Any], tokens: int, limit: int
    ) -> tuple[dict[str, Any], int | None]:
        """The chat without as many of its oldest turns as needed, and its tokens."""
        messages, room = fields["messages"], limit - _room(limit, fields, self.shift)
        starts = possible_starts(messages)
        low, high, best, fewest = 0, len(starts), None, tokens
        while low < high:  # halves: as many counts as the number of turns has binary digits
            middle = (low + high) // 2
            shorter = {**fields, "messages": without_turns(messages, starts[middle])}
            counted = await count(post, shorter)
            if counted is None:  # the engine cannot count it: by its share of the text
                counted = tokens * _size(shorter["messages"]) // max(1, _size(messages))
            fewest = min(fewest, counted)
            if counted < room or (counted < limit and middle == len(starts) - 1):
                best, high = (shorter, counted), middle
            else:
                low = middle + 1
        if best is None:
            if tokens < limit:
                return fields, tokens  # it fits, with little room for an answer
            raise too_long(
                fewest,
                limit,
                "the system and the last message alone are too long. Shorten them, or load the model with "
                "a larger context.",
            )
        return best

    async def _last_tokens(self, post: PostToChild, fields: dict[str, Any], limit: int) -> list[int]:
        found = await _post(post, b"/tokenize", {"content": fields["prompt"], "add_special": True})
        with blame_child():
            tokens: list[int] = found["tokens"]
            sum(tokens)  # raises unless all are numbers
        return tokens[-(limit - _room(limit, fields, self.shift)) :]


def possible_starts(messages: Sequence[Any]) -> list[int]:
    """Where a shortened chat may begin, the longest chat first: with a message of the user; if that is not enough, with
    a message of the assistant after the last one of the user; and with the last message. A result of a tool stays with
    its call."""
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    first = next((index for index, role in enumerate(roles) if role != "system"), len(roles))
    users = [index for index, role in enumerate(roles) if role == "user" and index > first]
    later = [index for index, role in enumerate(roles) if role == "assistant" and index > max([first, *users])]
    last = len(roles) - 1
    if roles and roles[last] not in ("tool", "system") and last > first:
        later.append(last)
    return sorted({*users, *later})


def without_turns(messages: Sequence[Any], start: int) -> list[Any]:
    """The messages from `start` on, and the system messages before."""
    return [
        message
        for index, message in enumerate(messages)
        if index >= start or (isinstance(message, dict) and message.get("role") == "system")
    ]


async def count(post: PostToChild, fields: dict[str, Any]) -> int | None:
    """The tokens of a chat's prompt, counted by the engine; None if it does not count them."""
    try:
        found = await _post(post, COUNT, {**fields, "stream": False})
    except RouterError:
        return None
    with blame_child():
        return int(found["input_tokens"])


async def _post(post: PostToChild, target: bytes, fields: dict[str, Any]) -> Any:
    answer = await post(target, encode_json(fields))
    try:
        if answer.status != 200:
            raise await read_upstream_error(answer)
        data = await answer.read_all(MAX_COUNT_BYTES)
        with blame_child():
            return parse_json(data, limit_depth=False)
    finally:
        answer.close()


def _room(limit: int, fields: dict[str, Any], shift: bool) -> int:
    """How many tokens are kept for the answer: as many as the request wants, but at most a quarter of the context; an
    eighth of it if the request does not say. One, which the engine needs, if the context is not to shift."""
    if not shift:
        return 1
    wanted = next((value for name in TOKEN_LIMIT_FIELDS["/chat/completions"] if (value := fields.get(name))), None)
    if not isinstance(wanted, int) or wanted < 0:
        return max(1, limit // 8)
    return max(1, min(wanted, limit // 4))


def _with_limit(fields: dict[str, Any], most: int) -> dict[str, Any]:
    wanted = fields.get("n_predict")
    is_less = isinstance(wanted, int) and 0 <= wanted < most
    return fields if is_less else {**fields, "n_predict": most}


def _size(messages: Sequence[Any]) -> int:
    return sum(len(str(message.get("content"))) for message in messages if isinstance(message, dict))
