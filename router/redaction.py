"""PURE: text without what only its owner may know: keys, tokens, and the credentials of a URL.

Whatever leaves the router as text (log, error, listing, news) comes through here, or holds nothing secret by its kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

HIDDEN = "***"
# Shorter words are in ordinary text too: to hide them would tell more than it hides.
SHORTEST = 8
# Variables whose values are secrets, by the last word of their name.
SECRET = re.compile(r"(?:.*_)?(?:TOKEN|KEY|KEYS|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS)", re.IGNORECASE)
# What stands between the scheme of a URL and its host. A password may hold an @, which should be written otherwise.
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#'\"<>]*@")


def without_credentials(text: str) -> str:
    """`http://user:password@host/` is `http://***@host/`."""
    return _CREDENTIALS.sub(f"{HIDDEN}@", text) if "@" in text and "://" in text else text


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The values of an environment that are nobody's business."""
    return tuple(dict.fromkeys(value for name, value in environ.items() if value and SECRET.fullmatch(name)))


def hider(secrets: Iterable[str]) -> Callable[[str], str]:
    """What makes text of text, without these secrets and any credentials."""
    words = sorted({word for word in secrets if len(word) >= SHORTEST}, key=len, reverse=True)
    if not words:
        return without_credentials
    found = re.compile("|".join(map(re.escape, words)))
    return lambda text: without_credentials(found.sub(HIDDEN, text))
