"""PURE: why a command against a running router did not succeed, and its exit code.

`session` raises these errors, and `commands.main` ends the program with their message and their code.
"""

from __future__ import annotations

from router.errors import RouterError


class NotReached(RouterError):
    """No router answers, or what answers is none."""

    exit_code = 3


class KeyRefused(RouterError):
    """The router wants a key, or another one."""

    exit_code = 4


class NoSuchModel(RouterError):
    exit_code = 5


class TryLater(RouterError):
    """The router cannot do it now: it is busy, ends, or backs off. `retry_after` is in seconds, if it said so."""

    exit_code = 6


class Failed(RouterError):
    """The router said no for another reason."""


def of_answer(status: int, message: str, retry_after: float | None = None) -> RouterError:
    """The error of an answer with this status."""
    match status:
        case 401 | 403:
            return KeyRefused(message)
        case 404:
            return NoSuchModel(message)
        case 429 | 503:
            return TryLater(message, retry_after=retry_after)
    return Failed(message)
