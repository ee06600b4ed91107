"""PURE: what is kept of one request.

A record holds figures and names, no content and no keys. Texts that come from a client are cut, and cleaned of what
nobody can see, before they get here (`clean`).
"""

from __future__ import annotations

from typing import Any

import msgspec

MAX_TEXT = 200  # characters of a text from a client
MAX_ID = 128
UNSEEN = "\N{REPLACEMENT CHARACTER}"


class Record(msgspec.Struct, frozen=True, gc=False):
    """A request that has ended, or a running one as it is now. A Struct, because a dataclass takes twenty times as long
    to make, and each small request makes one.

    - `id`: the request id that the client got. If requests with the same id run at once, it has a number behind it.
    - `at`: when it began, in seconds since 1970.
    - `model`: its name in the catalog; "" if there is none of the name that was asked for, or nobody knows yet.
    - `path`: without a query. `dialect`: "openai", "anthropic" or "ollama".
    - `status`: that of the answer; 499 if the client left before, 0 while there is none.
    - `phase`: "reading", "waiting", "prompt", "answering", and at the end "done", "left" (by the client), "failed".
    - `waited`: seconds in the queue; `load`: how many of them its own model took to load.
    - `ttft`: seconds from the beginning to the first byte of content; None without any.
    - `prompt`, `cached`, `generated`: tokens; `cached` is a part of `prompt`. None if the engine does not tell.
    - `tokens_per_second`: while it generated, by the engine's clock, or of a running one by that of the router.
    - `seconds`: from the beginning to the end.
    - `client`: its address. `agent`: what it calls itself.
    - `error`: a word for what went wrong, one of few; None if nothing did.

    Not part of the API:

    - `asked`: the name that was asked for, of a model that there is not.
    - `stream`: the client wanted a stream. `background`: it queued behind all others.
    - `prompt_seconds`, `generation_seconds`: what the engine took for the tokens.
    - `trace`: the header `traceparent` of the request, as it came. If it is traced, a line feed follows, and the
      router's own, which went to the engine.
    """

    id: str
    at: float
    model: str = ""
    path: str = ""
    dialect: str = ""
    status: int = 0
    phase: str = "done"
    waited: float = 0.0
    load: float = 0.0
    ttft: float | None = None
    prompt: int | None = None
    cached: int | None = None
    generated: int | None = None
    tokens_per_second: float | None = None
    seconds: float = 0.0
    client: str = ""
    agent: str = ""
    error: str | None = None
    asked: str = ""
    stream: bool = False
    background: bool = False
    prompt_seconds: float = 0.0
    generation_seconds: float = 0.0
    trace: str = ""

    def as_json(self) -> dict[str, Any]:
        """The fields of the API."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in API_FIELDS}
        fields["model"] = self.model or self.asked
        for name in ("at", "waited", "load", "ttft", "tokens_per_second", "seconds"):
            if fields[name] is not None:
                fields[name] = round(fields[name], 4)
        return fields


API_FIELDS = Record.__struct_fields__[: Record.__struct_fields__.index("error") + 1]


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """The beginning of a text from a client, without what nobody can see: control characters, half characters."""
    text = text[:limit]
    return text if text.isprintable() else "".join(each if each.isprintable() else UNSEEN for each in text)
