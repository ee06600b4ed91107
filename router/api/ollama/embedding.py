"""Embeddings in Ollama's words. Texts that are too long for the engine are cut to what it takes."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from router.api.ollama.context import too_long
from router.api.ollama.events import count_of
from router.api.ollama.reply import JSON, line
from router.errors import ContextExceeded
from router.proxy.error_response import read_upstream_error
from router.proxy.protocols import PostToChild
from router.proxy.rewrite import encode_json
from router.wire.child_json import blame_child, parse_json

MAX_EMBEDDINGS_BYTES = 128 << 20  # of an answer of the child


@dataclass
class Embedding:
    """A translation for the gateway. `make_answer` gets the vectors and the number of their tokens.

    With `truncate`, inputs that are too long are cut; without, they are an InvalidRequest with the numbers.
    Vectors are cut to `dimensions`, unless it is 0.
    `more` are fields that the preset adds to the request of the child."""

    inputs: list[str]
    make_answer: Callable[[list[list[float]], int], Mapping[str, Any]]
    truncate: bool = True
    dimensions: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)
    media_type = JSON

    def __repr__(self) -> str:
        return f"<Embedding of {len(self.inputs)} texts>"

    async def __call__(self, post: PostToChild) -> AsyncGenerator[bytes]:
        try:
            found = await _post(post, b"/v1/embeddings", {**self.more, "input": self.inputs})
        except ContextExceeded as exc:
            if not self.truncate:
                raise too_long(
                    exc.prompt, exc.limit, "split the text, or load the model with a larger context."
                ) from None
            limit = max(1, exc.limit - 1)
            cut = [await self._first_tokens(post, each, limit) for each in self.inputs]
            found = await _post(post, b"/v1/embeddings", {**self.more, "input": cut})
        with blame_child():
            items = sorted(found["data"], key=lambda item: item["index"])
            vectors = [self._vector(item["embedding"]) for item in items]
            answer = line(self.make_answer(vectors, int(count_of((found.get("usage") or {}).get("prompt_tokens")))))
        yield answer

    async def _first_tokens(self, post: PostToChild, text: str, limit: int) -> list[int]:
        found = await _post(post, b"/tokenize", {"content": text, "add_special": True})
        with blame_child():
            tokens: list[int] = found["tokens"][:limit]
            sum(tokens)  # raises unless all are numbers
        return tokens

    def _vector(self, vector: list[float | None]) -> list[float]:
        """JSON has no infinity: the engine sends null for it, which becomes 0."""
        numbers = [number or 0.0 for number in vector]
        sum(numbers)  # raises unless all are numbers
        if not 0 < self.dimensions < len(numbers):
            return numbers
        short = numbers[: self.dimensions]
        norm = math.hypot(*short) or 1.0
        return [number / norm for number in short]


async def _post(post: PostToChild, target: bytes, fields: dict[str, Any]) -> Any:
    answer = await post(target, encode_json(fields))
    try:
        if answer.status != 200:
            raise await read_upstream_error(answer)
        data = await answer.read_all(MAX_EMBEDDINGS_BYTES)
        with blame_child():
            return parse_json(data, limit_depth=False)
    finally:
        answer.close()
