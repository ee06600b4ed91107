"""Which version of Ollama's API this is: the newest of which all that clients see is here.

Clients compare the version before they use a field or a route. They accept nothing but numbers and dots.
"""

from __future__ import annotations

from collections.abc import Mapping

# What came with a version, as far as a client sees it: a route, or a route with a field.
FEATURES: Mapping[str, tuple[str, ...]] = {
    "0.1.0": ("GET /", "GET /api/version", "GET /api/tags", "POST /api/show", "POST /api/generate", "POST /api/pull"),
    "0.1.14": ("POST /api/chat", "POST /api/copy", "POST /api/create", "DELETE /api/delete", "POST /api/embeddings"),
    "0.1.33": ("GET /api/ps", "POST /v1/chat/completions", "POST /v1/embeddings", "GET /v1/models"),
    "0.3.0": ("POST /api/embed truncate", "POST /api/chat tools"),
    "0.5.0": ("POST /api/chat format", "POST /api/blobs/{digest}", "HEAD /api/blobs/{digest}"),
    "0.6.4": ("POST /api/show capabilities",),
    "0.9.0": ("POST /api/chat think", "POST /api/generate think"),
    "0.11.11": ("POST /api/embed dimensions", "POST /api/chat truncate", "POST /api/chat shift"),
    "0.12.11": ("POST /api/chat logprobs", "POST /api/generate top_logprobs"),
    "0.13.4": ("POST /v1/responses",),
    "0.14.0": ("POST /v1/messages",),
}

VERSION = max(FEATURES, key=lambda version: [int(number) for number in version.split(".")])
