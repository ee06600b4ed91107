"""Requests to a running router start nothing dangerous, and touch no files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Starter
from tests.routers import ENGINES, Router
from tests.security.test_load_args import DANGEROUS, VALUE


def load(router: Router, model: str = "plain", **body: Any) -> httpx.Response:
    return router.client.post("/models/load", json={"model": model, **body})


def test_load_with_a_dangerous_flag_is_refused(router: Router) -> None:  # B-T2
    for flag in DANGEROUS:
        answer = load(router, extra_args=[flag.name, *[VALUE] * flag.arity])
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert flag.name in error["message"]
        assert "--load-args" in error["message"]
    told = router.client.get("/models/plain/settings").json()
    assert told["requested"]["extra_args"] == []
    assert router.children() == []


def test_load_touches_no_files(router: Router, tmp_path: Path) -> None:  # B-T2
    secret, target = tmp_path / "secret", tmp_path / "target"
    secret.write_text("the secret")
    servers = {"mcpServers": {"a": {"command": "touch", "args": [str(target)]}}}
    for body in (
        {"extra_args": ["--mcp-servers-json", json.dumps(servers)]},
        {"extra_args": ["--chat-template-file", str(secret)]},
        {"extra_args": ["--chat-template", str(secret)]},
        {"extra_args": ["--log-file", str(target)]},
        {"chat_template": str(secret)},
    ):
        assert load(router, **body).status_code == 400
    assert load(router, wait=True).status_code == 200
    for path in ("/props?model=plain", "/models/plain/settings", "/v1/models"):
        answer = router.client.get(path)
        assert answer.status_code == 200
        assert "secret" not in answer.text
    assert not target.exists()
    (child,) = router.children()
    assert "secret" not in " ".join(child.cmdline())
    router.client.post("/models/unload", json={"model": "plain", "force": True})


def test_load_args_option_is_honoured(routers: Starter, fake: str, tiny_models: Path) -> None:  # B-T2
    start = ("--engine", fake, "--models-dir", str(tiny_models))
    any_args, none = routers(*start, "--load-args", "any"), routers(*start, LLAMA_ROUTER_LOAD_ARGS="none")
    answer = load(any_args, "tiny-a", extra_args=["--verbose"])
    assert answer.status_code == 200, answer.text
    assert "--log-verbose" in answer.json()["effective"]["args"]
    assert load(any_args, "tiny-a", extra_args=["--host", "::"]).status_code == 400
    answer = load(none, "tiny-a", extra_args=["--top-k", "20"])
    assert (answer.status_code, "--load-args none" in answer.text) == (400, True)
    assert load(none, "tiny-a", ctx_size=512, chat_template="{{ x }}", extra_args=[]).status_code == 200


def test_ollama_create_refuses_dangerous_parameters(router: Router) -> None:  # B-T2
    def create(**parameters: Any) -> httpx.Response:
        return router.client.post("/api/create", json={"model": "mine", "from": "plain", "parameters": parameters})

    for flag in DANGEROUS:
        for name in {flag.name.lstrip("-"), flag.name.lstrip("-").replace("-", "_"), flag.name} - {"numa", "main_gpu"}:
            answer = create(**{"temperature": 0.5, name: VALUE})
            assert (name, answer.status_code) == (name, 400)
            assert flag.name in answer.json()["error"]
            assert "--load-args" in answer.json()["error"]
    assert create(temperature=0.5, num_ctx=4096, numa=True, main_gpu=0, stop=["x"], use_mmap=True).status_code == 200
    for more, status in {"files": 400, "adapters": 501, "template": 501, "modelfile": 501, "path": 501}.items():
        answer = router.client.post("/api/create", json={"model": "other", "from": "plain", more: VALUE})
        assert (more, answer.status_code) == (more, status)
    large: dict[str, Any]
    for large in (
        {"system": "x" * 2**17},
        {"parameters": {"stop": ["x" * 100] * 2000}},
        {"parameters": {"y": "x" * 2**17}},
    ):
        answer = router.client.post("/api/create", json={"model": "mine", "from": "plain", **large})
        assert (answer.status_code, "65536 bytes" in answer.json()["error"]) == (400, True)
    system = {"model": "mine", "from": "plain", "system": "x" * 60_000}
    assert router.client.post("/api/create", json=system).status_code == 200
    router.client.request("DELETE", "/api/delete", json={"model": "mine"})


def test_dangerous_routes_of_the_engine_do_not_exist(router: Router) -> None:  # B-T2
    assert router.client.get("/tools").json() == []
    assert [*router.client.post("/tools", json={"tool": "exec_shell_command", "params": {}}).json()] == ["error"]
    for path in ("/cors-proxy", "/cors-proxy?url=http://127.0.0.1", "/mcp", "/v1/tools", "/v1/mcp"):
        status = 403 if path.startswith("/cors-proxy") else 404  # as llama-server
        assert router.client.get(path).status_code == status
        assert router.client.post(path, json={"model": "plain"}).status_code == status


@pytest.mark.parametrize("engine", sorted(ENGINES), indirect=False)
def test_image_url_reads_no_local_file(
    engine: str, routers: Starter, tiny_models: Path, tmp_path: Path
) -> None:  # B-T2
    """The engine opens local files only with --media-path, and no request can set that."""
    (tmp_path / "secret").write_text("the secret")
    router = routers("--engine", ENGINES[engine](), "--models-dir", str(tiny_models))
    parts = [{"type": "image_url", "image_url": {"url": f"file://{tmp_path}/secret"}}, {"type": "text", "text": "x"}]
    answer = router.client.post(
        "/v1/chat/completions", json={"model": "tiny-a", "messages": [{"role": "user", "content": parts}]}
    )
    assert answer.status_code >= 400
    assert "the secret" not in answer.text
    assert load(router, "tiny-a", extra_args=["--media-path", str(tmp_path)]).status_code == 400
