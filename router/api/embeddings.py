"""Embeddings in OpenAI's words, where the engine falls short: `dimensions`, and models that only rank.

The engine ignores `dimensions`, so the router cuts the vectors and normalizes them again, as OpenAI does. All other
requests pass through. `openai` makes the routes.
"""

from __future__ import annotations

import array
import base64
import math
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.errors import InvalidField, InvalidRequest
from router.models.spec import ModelSpec
from router.proxy.body import in_thread_if_large, json_type
from router.proxy.endpoints import ModelFromBody
from router.proxy.error_response import read_upstream_error
from router.proxy.head import Head
from router.proxy.protocols import PostToChild
from router.proxy.rewrite import apply_filters, encode_json
from router.proxy.routing import RoutingFields, all_fields
from router.wire.child_json import blame_child, parse_json

MAX_ANSWER_BYTES = 128 << 20  # of the child
MAX_DIMENSIONS = 2**20


class Embeddings(ModelFromBody):
    """The endpoint. `cuts`: the path has vectors in OpenAI's form, which can be cut."""

    cuts = True

    def _check_request(self, spec: ModelSpec, head: Head, body: bytes) -> None:
        super()._check_request(spec, head, body)
        # The engine answers with what happens to lie in its memory.
        if "rerank" in self._gateway.pool.effective(spec.name).info.capabilities:
            raise InvalidRequest(f"{spec.name!r} ranks texts and embeds none. Ask /v1/rerank, or another model.")

    def _passes_through(self, spec: ModelSpec, head: Head, routing: RoutingFields) -> bool:
        fields = routing.fields
        if fields is not None and spec.filters is not None and self.cuts:
            fields = apply_filters("/embeddings", fields, spec.filters)
        return fields is None or fields.get("dimensions") is None

    def _translation(self, head: Head, body: bytes) -> ShorterVectors:
        fields = all_fields(body)
        if not self.cuts:
            raise InvalidField("dimensions", "belongs to /v1/embeddings; leave it out here.")
        return ShorterVectors.of_request(head.target, fields)


class NativeEmbeddings(Embeddings):
    """The same of llama.cpp's own API, whose vectors are not always one a text. A preset's `dimensions` are not for
    them."""

    cuts = False


@dataclass(frozen=True, slots=True)
class ShorterVectors:
    """A translation: the request goes to the child at `target`, and its vectors come back with `dimensions` numbers."""

    target: bytes
    fields: Mapping[str, Any]
    dimensions: int
    is_base64: bool = False

    media_type = b"application/json"

    def __repr__(self) -> str:  # the fields hold texts
        return f"<ShorterVectors of {self.dimensions} numbers>"

    @classmethod
    def of_request(cls, target: bytes, fields: Mapping[str, Any]) -> ShorterVectors:
        """Raises InvalidField."""
        wanted, coding = fields["dimensions"], fields.get("encoding_format")
        if not isinstance(wanted, int) or isinstance(wanted, bool):
            raise InvalidField("dimensions", f"must be a whole number, not {json_type(wanted)}.")
        if not 1 <= wanted <= MAX_DIMENSIONS:
            raise InvalidField("dimensions", f"must be at least 1, and at most what the model has; it is {wanted}.")
        if coding not in (None, "float", "base64"):
            raise InvalidField("encoding_format", 'must be "float" or "base64".')
        kept = {name: value for name, value in fields.items() if name not in ("dimensions", "encoding_format")}
        return cls(target, kept, wanted, coding == "base64")

    async def __call__(self, post: PostToChild) -> AsyncGenerator[bytes]:
        # In base64 a vector is a fourth as long, and is read in no time.
        answer = await post(self.target, encode_json({**self.fields, "encoding_format": "base64"}))
        try:
            if answer.status != 200:
                raise await read_upstream_error(answer)
            data = await answer.read_all(MAX_ANSWER_BYTES)
        finally:
            answer.close()
        yield await in_thread_if_large(len(data), self._shorten, data)

    def _shorten(self, data: bytes) -> bytes:
        """The child's answer with shorter vectors. Raises InvalidField, UpstreamFailed."""
        with blame_child():
            found = parse_json(data, limit_depth=False)
            vectors = [numbers_of(item["embedding"]) for item in found["data"]]
        longest = min(map(len, vectors), default=self.dimensions)
        if self.dimensions > longest:
            raise InvalidField("dimensions", f"is {self.dimensions}, and this model has {longest}.")
        with blame_child():
            for item, vector in zip(found["data"], vectors, strict=True):
                short = shorter(vector, self.dimensions)
                item.pop("encoding_format", None)
                item["embedding"] = packed(short) if self.is_base64 else short
        return encode_json(found)


def numbers_of(vector: str | list[float | None]) -> list[float]:
    """The numbers of a vector, which may be base64 of 32-bit floats. What is no finite number becomes 0. Raises
    ValueError and TypeError for what is no vector."""
    if isinstance(vector, str):
        floats = array.array("f", base64.b64decode(vector, validate=True))
        if sys.byteorder == "big":
            floats.byteswap()
        return [number if math.isfinite(number) else 0.0 for number in floats]
    return [number if number and math.isfinite(number) else 0.0 for number in vector]


def packed(vector: Sequence[float]) -> str:
    """The vector as base64 of 32-bit floats, the lowest byte first."""
    floats = array.array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()


def shorter(vector: Sequence[float], dimensions: int) -> list[float]:
    """The first numbers of a vector, with a length of 1 again."""
    short = list(vector[:dimensions])
    if dimensions >= len(vector):
        return short
    norm = math.hypot(*short) or 1.0
    return [number / norm for number in short]
