"""PURE: text without secrets: keys, tokens, and the credentials of URLs.

Text that leaves the router (log, error, listing, event) passes through here, unless it cannot hold a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping

HIDDEN = "***"
# Shorter words occur in ordinary text too. Hiding them there would show what they are.
MIN_SECRET_CHARACTERS = 8
# Variables whose values are secrets, by the last word of their name.
SECRET = re.compile(r"(?:.*_)?(?:TOKEN|KEY|KEYS|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS)", re.IGNORECASE)
# Variables that a child of the router has no use for: secrets, wherever their names say so, and the accounts of clouds.
# `TOKENS` is a number of them, and no secret.
_WORDS_OF_SECRETS = (
    "TOKEN|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|PWD|CREDENTIALS?|PAT|API_?KEYS?|ACCESS_KEY|PRIVATE_KEY|AUTH_SOCK"
)
_PRIVATE = re.compile(
    rf"{SECRET.pattern}|(?:.*_)?(?:{_WORDS_OF_SECRETS})(?:_.*)?|[A-Z]+PASSWORD|(?:AWS|AZURE|GCP|GOOGLE)_.*",
    re.IGNORECASE,
)
_NOT_PRIVATE = frozenset(("PWD", "OLDPWD"))
# The credentials between the scheme of a URL and its host. A password may hold an @, although it should be escaped.
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#'\"<>]*@")


def without_credentials(text: str) -> str:
    """`http://user:password@host/` is `http://***@host/`."""
    return _CREDENTIALS.sub(f"{HIDDEN}@", text) if "@" in text and "://" in text else text


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The values of variables whose names say that they are secret (see SECRET)."""
    return tuple(dict.fromkeys(value for name, value in environ.items() if value and SECRET.fullmatch(name)))


def is_private(name: str, value: str) -> bool:
    """Whether this variable of the router's environment is nobody else's: its name says that it is a secret, or its
    value is a URL with a password. Flags of llama-server are for children."""
    if name.startswith("LLAMA_ARG_") or name in _NOT_PRIVATE:
        return False
    return bool(_PRIVATE.fullmatch(name)) or without_credentials(value) != value


def bytes_redactor(secrets: Iterable[str]) -> Callable[[bytes], bytes]:
    """A function that hides these secrets in bytes. Most hold none, and cost only a search."""
    words = sorted({os.fsencode(word) for word in secrets if len(word) >= MIN_SECRET_CHARACTERS}, key=len, reverse=True)

    def hide(data: bytes) -> bytes:
        for word in words:
            if word in data:
                data = data.replace(word, HIDDEN.encode())
        return data

    return hide


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that hides these secrets, and the credentials of URLs, in a text."""
    words = sorted({word for word in secrets if len(word) >= MIN_SECRET_CHARACTERS}, key=len, reverse=True)
    if not words:
        return without_credentials
    found = re.compile("|".join(map(re.escape, words)))
    return lambda text: without_credentials(found.sub(HIDDEN, text))
