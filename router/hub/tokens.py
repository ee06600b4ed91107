"""PURE: a token for the hub that comes with one request, for repositories that the router's own token does not open.

It is kept in memory as long as the download that it is for, and is nowhere else: no command line, log, listing or
error has it. Called by the endpoints that may begin a download.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from router.errors import InvalidField

FIELD = "hf_token"
TOKEN = re.compile(r"[!-~]{1,512}")  # it becomes a header and a variable


def token_of(fields: Mapping[str, Any]) -> str | None:
    """The token of a request; None if it has none. Raises InvalidField, which does not repeat the value."""
    value = fields.get(FIELD)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not TOKEN.fullmatch(value):
        raise InvalidField(FIELD, "is a token of the hub: printable characters without spaces, 512 at most.")
    return value
