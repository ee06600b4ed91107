"""Lines of the log for requests that have ended, as `--log-requests` says: one a request, made of its record.

`serve` has one `AccessLines` listen, unless no such lines are wanted. A request that failed is a warning.
"""

from __future__ import annotations

import logging

from router.records.record import Record
from router.records.records import Records
from router.records.running import LEFT

log = logging.getLogger("router.requests")

ERRORS, ALL = "errors", "all"  # what --log-requests may say, beside off


class AccessLines:
    """`which` is ERRORS or ALL."""

    def __init__(self, which: str) -> None:
        self._takes_all = which == ALL

    def __repr__(self) -> str:
        return f"<AccessLines {ALL if self._takes_all else ERRORS}>"

    def listen(self, records: Records) -> None:
        """Write from now on. Errors need no look at what went well."""
        records.subscribe(self, None if self._takes_all else lambda sums: None)

    def __call__(self, record: Record) -> None:
        has_failed = record.error is not None or (record.status >= 400 and record.status != LEFT)
        level = logging.WARNING if has_failed else logging.INFO
        if (has_failed or self._takes_all) and log.isEnabledFor(level):
            fields = record.as_json()
            del fields["id"], fields["model"]
            extra = {"model": record.model or record.asked, "request_id": record.id, "fields": fields}
            log.log(level, "%s", sentence(record), extra=extra)


def sentence(record: Record) -> str:
    """`/v1/chat/completions 200, tiny, 1.234 s: first token after 0.8 s, ...; from 127.0.0.1, curl/8`."""
    parts = []
    if record.error:
        parts.append(record.error)
    elif record.phase == "left":
        parts.append("its client left")
    if record.waited >= 0.001:
        parts.append(
            f"waited {record.waited:.3f} s" + (f", {record.load:.3f} s of them for the load" if record.load else "")
        )
    if record.ttft is not None:
        parts.append(f"first token after {record.ttft:.3f} s")
    if record.prompt is not None:
        parts.append(f"prompt {record.prompt} tokens" + (f", {record.cached} of them cached" if record.cached else ""))
    if record.generated is not None:
        rate = f", {record.tokens_per_second:.1f} a second" if record.tokens_per_second else ""
        parts.append(f"answer {record.generated} tokens{rate}")
    whose = ", ".join(filter(None, (record.client, record.agent)))
    if whose:
        parts.append(f"from {whose}")
    what = ", ".join(filter(None, (f"{record.path} {record.status}", record.model or record.asked)))
    return f"{what}, {record.seconds:.3f} s" + (f": {'; '.join(parts)}" if parts else "")
