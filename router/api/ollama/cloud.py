"""What Ollama's own server has of ollama.com: accounts, and searches of the web. This router has none of it.

It says so, as clients of today ask for it before they offer it. `endpoints` makes the routes.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from router.api.ollama.reply import json_response
from router.errors import Unsupported

# Ollama's server/routes.go, and the web API of ollama.com that its libraries call.
PATHS = (
    ("/api/me", "POST"),
    ("/api/signout", "POST"),
    ("/api/user/keys/{key}", "DELETE"),
    ("/api/web_search", "POST"),
    ("/api/web_fetch", "POST"),
    ("/api/experimental/web_search", "POST"),
    ("/api/experimental/web_fetch", "POST"),
)
STATUS = {"cloud": {"disabled": True, "source": "config"}}


async def status(request: Request) -> Response:
    return json_response(STATUS)


async def refuse(request: Request) -> Response:
    raise Unsupported(f"{request.url.path} is a service of ollama.com; this router serves local models alone.")
