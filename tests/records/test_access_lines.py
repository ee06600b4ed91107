"""Lines of the log for requests that have ended. B-O5"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from router.records.access_lines import ALL, ERRORS, AccessLines, sentence
from router.records.record import Record
from tests.conftest import Starter
from tests.routers import chat
from tests.test_logs import FORBIDDEN
from tests.waiting import until

WHOLE = Record(
    *("r-1", 0.0, "tiny", "/v1/chat/completions", "openai", 200, "done", 1.5, 1.25, 1.75, 20, 8, 5, 12.34, 2.0),
    *("127.0.0.1", "curl/8"),
)
SENTENCES = {
    WHOLE: "/v1/chat/completions 200, tiny, 2.000 s: waited 1.500 s, 1.250 s of them for the load; first token after "
    "1.750 s; prompt 20 tokens, 8 of them cached; answer 5 tokens, 12.3 a second; from 127.0.0.1, curl/8",
    Record("r-2", 0.0, path="/api/chat", status=404, error="unknown_model", asked="nobody"): "/api/chat 404, nobody, "
    "0.000 s: unknown_model",
    Record("r-3", 0.0, "tiny", "/v1/embeddings", status=499, phase="left"): "/v1/embeddings 499, tiny, 0.000 s: its "
    "client left",
    Record("r-4", 0.0, path="/v1/chat/completions", status=200): "/v1/chat/completions 200, 0.000 s",
}


@pytest.mark.parametrize(("record", "expected"), SENTENCES.items(), ids=lambda value: getattr(value, "id", ""))
def test_a_line_tells_what_there_is_to_tell(record: Record, expected: str) -> None:
    assert sentence(record) == expected


@pytest.mark.parametrize(("which", "expected"), [(ALL, ["r-1", "r-2", "r-3", "r-4"]), (ERRORS, ["r-2"])])
def test_which_requests_have_a_line(which: str, expected: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "router.requests")
    lines = AccessLines(which)
    for record in SENTENCES:
        lines(record)
    assert [record.__dict__["request_id"] for record in caplog.records] == expected
    assert {record.levelname for record in caplog.records if record.__dict__["request_id"] == "r-2"} == {"WARNING"}
    assert repr(lines) == f"<AccessLines {which}>"


def test_requests_of_a_real_router(routers: Starter, fake: str, tiny_models: Path) -> None:
    secret, words = "a-secret-of-the-client", "words that nobody else should read"
    router = routers(
        *("--engine", fake, "--models-dir", str(tiny_models), "--log-requests", "all", "--log-format", "json"),
        *("--api-key", secret),
    )
    client = router.client
    client.headers["authorization"] = f"Bearer {secret}"
    body: dict[str, Any] = {**chat("tiny-a"), "messages": [{"role": "user", "content": words}]}
    hostile = {b"x-request-id": b'r-"%s', b"user-agent": b"a\x9b31m\xff"}
    for number in range(3):  # the first loads, the others take the fast path
        assert (
            client.post("/v1/chat/completions", json=body, headers={"x-request-id": f"r-{number}"}).status_code == 200
        )
    client.post("/v1/chat/completions", json={**body, "model": "no\x1b[2Jbody"}, headers=hostile)
    client.post("/v1/messages", json={**body, "stream": True}, headers={"x-request-id": "r-s"})
    client.get("/health")

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in router.log.splitlines()]
        return [line for line in found if line["logger"] == "router.requests"]

    first, second, third, wrong, stream = until(lambda: lines() if len(lines()) == 5 else None)
    assert [line["request_id"] for line in (first, second, third, stream)] == ["r-0", "r-1", "r-2", "r-s"]
    assert first["waited"] > 0
    for line in (first, second, third, stream):
        assert (line["model"], line["status"], line["phase"], line["level"]) == ("tiny-a", 200, "done", "info")
        assert line["client"] == "127.0.0.1"
    assert (stream["dialect"], stream["path"]) == ("anthropic", "/v1/messages")
    assert (wrong["status"] in (400, 404), wrong["level"]) == (True, "warning")
    assert wrong["error"]
    assert not FORBIDDEN.search(router.log)
    assert secret not in router.log
    assert words not in router.log
