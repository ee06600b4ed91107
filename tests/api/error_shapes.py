"""What an error of each dialect looks like."""

from __future__ import annotations

from typing import Any

import httpx

JSON = {"content-type": "application/json"}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object; fails if its shape is not that of the path's dialect."""
    body = response.json()
    if response.request.url.path.startswith("/v1/messages"):
        assert (body["type"], body.keys()) == ("error", {"type", "error", "request_id"})
        assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
        assert body["error"].keys() == {"type", "message"}
    else:
        assert body["error"].keys() == {"code", "message", "type", "param"}
        assert body["error"]["code"] == response.status_code
    assert body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error
