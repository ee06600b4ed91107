"""What tests of Ollama's API share: its client, and the shape of its errors."""

from __future__ import annotations

import datetime
from typing import Any

import httpx
import ollama
from ollama import Message

from tests.routers import Router

HI = [Message(role="user", content="hi")]
FEW: dict[str, Any] = {"num_predict": 8, "seed": 1, "temperature": 0}
JSON = {"content-type": "application/json"}


def client_of(router: Router, **more: Any) -> ollama.Client:
    return ollama.Client(router.url, trust_env=False, timeout=30, **more)


def error_of(response: httpx.Response) -> str:
    body = response.json()
    assert body.keys() == {"error"}
    assert response.headers["content-type"] == "application/json"
    assert isinstance(body["error"], str)
    return body["error"]


def loaded(client: ollama.Client) -> dict[str, datetime.datetime]:
    """The models that are loaded, and when each would be unloaded."""
    return {model.model or "": model.expires_at for model in client.ps().models if model.expires_at}
