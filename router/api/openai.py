"""OpenAI's API, and llama.cpp's paths for the same endpoints.

The engine speaks this API itself: the router reads `model` from the body and passes the request on. The Responses API
is the exception: `responses` translates it.
"""

from __future__ import annotations

from starlette.routing import Route

from router.api.dialects import OPENAI
from router.api.embeddings import Embeddings, NativeEmbeddings
from router.proxy.endpoints import ModelFromBody
from router.proxy.gateway import Gateway

# The paths under which llama.cpp's tools/server/server.cpp registers these endpoints.
PATHS = (
    "/v1/chat/completions",
    "/chat/completions",
    "/v1/chat/completions/input_tokens",
    "/chat/completions/input_tokens",
    "/v1/completions",
    "/completions",
    "/v1/audio/transcriptions",
    "/audio/transcriptions",
    "/v1/rerank",
    "/rerank",
    "/v1/reranking",
    "/reranking",
)


def routes(gateway: Gateway) -> list[Route]:
    return [
        *ModelFromBody(gateway, OPENAI).routes(PATHS),
        *Embeddings(gateway, OPENAI).routes(["/v1/embeddings"]),
        *NativeEmbeddings(gateway, OPENAI).routes(["/embeddings", "/embedding"]),
    ]
