"""Routers with real engines, and Anthropic's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.routers import ENGINES, Router, start

# A template without "assistant:", which the vocabulary of the tiny models splits into what no grammar expects.
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"
TOOLS = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}" + PLAIN
THINKS = (
    "{% for message in messages %}{{ message.reasoning_content or '' }}{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<think>"
    "{% if enable_thinking is defined and not enable_thinking %}</think>{% endif %}{% endif %}"
)
STRICT = (
    "{% for message in messages %}{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    "{{ message.role }}:{{ message.content }};{% endfor %}"
)
TEMPLATES = {"plain": PLAIN, "tools": TOOLS, "thinks": THINKS, "strict": STRICT}


def client_of(router: Router, **more: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=router.url, api_key="key", max_retries=0, timeout=30, **more)


@pytest.fixture(scope="package", params=sorted(ENGINES))
def router(
    request: pytest.FixtureRequest, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("messages")
    sections = [
        f"[{name}]\nmodel = {tiny_models}/tiny-a.gguf\nchat-template = {text}\n" for name, text in TEMPLATES.items()
    ]
    seeded = f'[seeded]\nmodel = {tiny_models}/tiny-a.gguf\nchat-template = {PLAIN}\nset-params = {{"max_tokens": 2}}\n'
    (folder / "models.ini").write_text("\n".join([*sections, seeded, "alias = claude-alias, other"]))
    made = start(
        folder / "router",
        *("--engine", ENGINES[request.param](), "--models-preset", str(folder / "models.ini"), "--models-max", "2"),
        *("--ctx-size", "512", "--api-key", "key", "--claude-map", "claude-exact=plain,claude-*=tools"),
    )
    made.client.headers["authorization"] = "Bearer key"
    yield made
    made.stop()


@pytest.fixture
def claude(router: Router) -> Iterator[anthropic.Anthropic]:
    with client_of(router) as made:
        yield made
