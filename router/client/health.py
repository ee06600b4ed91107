"""`health`: whether the router takes requests. A container's health check calls it; it needs no key and sends none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from router.client import options, screen, target
from router.client.session import Session, message_of
from router.errors import FlagError
from router.logs.letters import visible
from router.options import SECONDS

TIMEOUT_S = 4.0  # health checks of containers have five seconds or more


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    words = options.read("health", argv, most=0)
    timeout = _seconds(words.value("--timeout"))
    found = replace(target.find(words, environ), key="")
    with Session(found) as session, session.open("GET", "/health", timeout=timeout, is_any_welcome=True) as answer:
        fields = session.object_of(answer)
        is_healthy = answer.status_code == 200
        sentence = message_of(fields) or str(fields.get("status") or answer.status_code)
    if words.has("--json"):
        screen.print_json({"healthy": is_healthy, "status": sentence, "router": str(found)})
    else:
        print(visible(f"{found}: {sentence}"))
    return 0 if is_healthy else 1


def _seconds(word: str | None) -> float:
    try:
        seconds = TIMEOUT_S if word is None else float(SECONDS.read(word))
    except ValueError:
        seconds = 0.0
    if not seconds:
        raise FlagError(f"--timeout takes seconds, more than 0, not {word!r}")
    return seconds
