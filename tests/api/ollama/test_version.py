"""The version of Ollama's API that clients are told."""

from __future__ import annotations

from router.access.permissions import REQUIRED
from router.api.ollama.cloud import PATHS
from router.api.ollama.version import FEATURES, VERSION
from tests.routers import Router


def test_the_version_is_the_newest_whose_features_are_here(router: Router) -> None:
    assert router.client.get("/api/version").json() == {"version": VERSION}
    numbers = [int(number) for number in VERSION.split(".")]
    assert numbers >= [0, 13, 4], "Codex asks for it"
    for version, features in FEATURES.items():
        assert [int(number) for number in version.split(".")] <= numbers
        for feature in features:
            assert " ".join(feature.split()[:2]) in REQUIRED


def test_fields_of_its_features_have_an_effect_or_are_refused(router: Router) -> None:
    hello = {"model": "tiny-a", "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 2}}
    for field, wrong in (
        *(("truncate", "x"), ("shift", 1), ("think", "hard"), ("format", 5), ("tools", 5), ("logprobs", 5)),
        ("top_logprobs", 99),
    ):
        response = router.client.post("/api/chat", json={**hello, field: wrong})
        assert response.status_code == 400, field
    assert router.client.post("/api/chat", json={**hello, "think": True}).status_code == 400, "it cannot think"
    assert router.client.post("/api/embed", json={"model": "tiny-a", "input": "x", "dimensions": -1}).status_code == 400
    assert (
        router.client.post("/api/generate", json={"model": "tiny-a", "prompt": "x", "context": [1]}).status_code == 400
    )
    answer = router.client.post("/api/embed", json={"model": "tiny-a", "input": "x", "dimensions": 8}).json()
    assert len(answer["embeddings"][0]) == 8


def test_services_of_ollamas_makers_are_told_to_be_elsewhere(router: Router) -> None:
    assert router.client.get("/api/status").json()["cloud"]["disabled"] is True
    for path, method in PATHS:
        response = router.client.request(method, path.replace("{key}", "x"), json={})
        assert (response.status_code, response.headers["x-should-retry"]) == (501, "false"), path
        assert "ollama.com" in response.json()["error"]
    for path in ("/api/version", "/api/tags"):
        assert router.client.head(path).status_code == 200
