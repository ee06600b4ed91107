"""Anthropic's Messages API, which llama-server speaks itself. `--claude-map` maps Anthropic's model names."""

from __future__ import annotations

from fnmatch import fnmatchcase

from starlette.routing import Route

from router.api.dialects import ANTHROPIC
from router.proxy.endpoints import ModelFromBody
from router.proxy.gateway import Gateway

PATHS = ("/v1/messages", "/v1/messages/count_tokens")


def routes(gateway: Gateway) -> list[Route]:
    def model_name(name: str | None) -> str | None:
        """A name of the catalog stays as it is; another one becomes the model of the first pattern that matches."""
        if gateway.has_model(name):
            return name
        for pattern, model in gateway.claude_map:
            if fnmatchcase(name or "", pattern):
                return model
        return name

    return ModelFromBody(gateway, ANTHROPIC, model_name).routes(PATHS)
