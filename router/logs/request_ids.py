"""Which request the code that runs now works for, so that each line of the log can say so.

The one idea: the server names the request once, and the log asks when it writes a line. A task that a request has
started works for it until the request has ended, and for nobody afterwards. What the pool does is done for no single
request: the end of one may start the model of another. The fast path logs nothing, and so names nothing.
"""

from __future__ import annotations

from contextvars import ContextVar


class _Work:
    """`id` is empty once the request has ended."""

    __slots__ = ("id",)

    def __init__(self, id: str) -> None:
        self.id = id


_NOBODY = _Work("")
_work: ContextVar[_Work] = ContextVar("request", default=_NOBODY)


def current() -> str:
    """The id of the request, empty if there is none."""
    return _work.get().id


class _Working:
    """A class, because each request makes one, and a generator takes three times as long."""

    __slots__ = ("_before", "_work")

    def __init__(self, id: bytes) -> None:
        self._work = _Work(id.decode("ascii", "replace"))

    def __enter__(self) -> None:
        self._before = _work.set(self._work)

    def __exit__(self, *exc: object) -> None:
        self._work.id = ""
        _work.reset(self._before)


def working_for(id: bytes) -> _Working:
    """What runs inside works for this request. Ids are ASCII."""
    return _Working(id)


def working_for_nobody() -> _Working:
    """What runs inside works for no single request."""
    return _Working(b"")
