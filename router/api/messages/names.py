"""Anthropic's model names, and which of the router's models they mean."""

from __future__ import annotations

from fnmatch import fnmatchcase

from router.proxy.gateway import Gateway


def catalog_name(gateway: Gateway, name: str | None) -> str | None:
    """A name of the catalog stays as it is; another one becomes the model of the first pattern of `--claude-map` that
    matches."""
    if gateway.has_model(name):
        return name
    for pattern, model in gateway.claude_map:
        if fnmatchcase(name or "", pattern):
            return model
    return name
