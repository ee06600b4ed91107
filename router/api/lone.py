"""A router asked as if it were one llama-server: what clients of that read, and this router would not have otherwise.

Each fact was read from a llama-server of b11434 that was started with `-m FILE`. `native` and `listing` call this.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.api.details import details
from router.models.spec import ModelSpec

# llama-server has these with `--tools` and `--ui-mcp-proxy`. They run programs and fetch any address for a web page, so
# this router has them nowhere.
DISABLED_PATHS = (("/cors-proxy", "GET"), ("/cors-proxy", "POST"))
TOOL_PATHS = (("/tools", "GET"), ("/tools", "POST"))


async def disabled(request: Request) -> Response:
    """llama-server's answer where they are off."""
    return JSONResponse({"error": {"message": "this feature is disabled", "type": "feature_disabled"}}, 403)


async def tools(request: Request) -> Response:
    """There are none, and none runs. llama.cpp's page asks for them at its start, and tries one: this is how it hears
    that a tool has failed. A refusal, as llama-server's, would be an error in the browser's console each time."""
    return JSONResponse([] if request.method == "GET" else {"error": "This router runs no tools."})


def ollama_entry(spec: ModelSpec) -> dict[str, Any]:
    """The model in the list `models`, which stands beside `data` in `/models`. Clients that know llama-server by this
    list read names and capabilities from it."""
    return {
        "name": spec.name,
        "model": spec.name,
        "modified_at": "",
        "size": "",
        "digest": "",
        "type": "model",
        "description": spec.description,
        "tags": list(spec.tags) or [""],
        "capabilities": list(spec.info.capabilities),
        "parameters": "",
        "details": {"parent_model": "", **details(spec.info)},
    }
