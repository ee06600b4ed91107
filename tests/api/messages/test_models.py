"""The list of models as Anthropic's clients read it."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic.types import ModelInfo
from pydantic import TypeAdapter

from tests.api.error_shapes import error_of
from tests.routers import Router

INFO: TypeAdapter[ModelInfo] = TypeAdapter(ModelInfo)
VERSION = {"anthropic-version": "2023-06-01"}
NAMES = ["plain", "tools", "thinks", "strict", "seeded", "claude-alias", "claude-exact"]


def page(router: Router, **query: Any) -> dict[str, Any]:
    response = router.client.get("/v1/models", params=query, headers=VERSION)
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    for entry in answer["data"]:
        INFO.validate_python(entry)
    return answer


def test_names_that_claude_code_offers_are_entries(router: Router, claude: anthropic.Anthropic) -> None:  # B-C15
    """Also aliases and mapped names that begin with `claude`."""
    found = {model.id: model for model in claude.models.list()}
    assert sorted(found) == sorted(NAMES)
    assert found["claude-exact"].display_name == "claude-exact (plain)"
    for name in found:
        assert claude.models.retrieve(name).id == name
    assert claude.models.retrieve("claude-opus-99").display_name == "claude-opus-99 (tools)"
    assert claude.models.retrieve("other").id == "other"


def test_an_entry_tells_context_and_capabilities(router: Router, claude: anthropic.Anthropic) -> None:  # B-C15
    claude.messages.create(model="thinks", messages=[{"role": "user", "content": "a"}], max_tokens=1)
    entry = claude.models.retrieve("thinks")
    assert (entry.max_input_tokens, entry.max_tokens, entry.type, entry.lifecycle) == (512, 512, "model", "active")
    assert entry.capabilities
    assert entry.capabilities.thinking.types.disabled.supported
    assert not entry.capabilities.image_input.supported
    assert not page(router)["data"][0]["capabilities"]["thinking"]["supported"]


def test_pages(router: Router) -> None:
    first = page(router, limit=3)
    assert len(first["data"]) == 3
    assert (first["has_more"], first["last_id"]) == (True, first["data"][-1]["id"])
    rest = page(router, after_id=first["last_id"])
    assert not rest["has_more"]
    assert [*first["data"], *rest["data"]] == page(router)["data"]
    before = page(router, before_id=rest["last_id"], limit=2)
    assert [entry["id"] for entry in before["data"]] == [entry["id"] for entry in page(router)["data"][-3:-1]]
    assert before["has_more"]
    assert page(router, lifecycle="retired") == {"data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": "x"}, {"limit": 1001}, {"after_id": "nowhere"}])
def test_mistakes(router: Router, query: dict[str, Any]) -> None:
    response = router.client.get("/v1/models", params=query, headers=VERSION)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert response.json()["type"] == "error"


def test_an_unknown_model(router: Router, claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        claude.models.retrieve("nowhere")


def test_other_clients_get_their_own_list(router: Router) -> None:
    assert router.client.get("/v1/models").json()["object"] == "list"
    assert router.client.get("/v1/models/plain").json()["object"] == "model"
    assert error_of(router.client.get("/v1/models/nowhere"))["type"] == "not_found_error"
