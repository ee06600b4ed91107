"""What a proxied request needs from other packages, as types: a lease, a dialect, a translation.

`pool` and `conversation` have the leases, `api` has the dialects and the translations.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol, runtime_checkable

from starlette.responses import Response

from router.errors import RouterError
from router.wire.address import Address
from router.wire.response import Response as UpstreamResponse


class Lease(Protocol):
    """The right to use a running child. The child is not stopped before `release`."""

    @property
    def address(self) -> Address: ...

    @property
    def key(self) -> str: ...

    @property
    def model(self) -> str: ...

    async def is_over(self) -> bool:
        """Whether the child has ended, or ends within a moment."""

    def report_unreachable(self) -> bool:
        """The child lives but does not listen. Ends it after its last requests. Returns whether the next lease is for
        another child."""

    def release(self) -> None: ...


class Dialect(Protocol):
    """How an API renders errors. `name` is the API's."""

    @property
    def name(self) -> str: ...

    def error(self, exc: RouterError, request_id: str) -> Response: ...

    def stream_error(self, exc: RouterError, request_id: str) -> bytes:
        """The error as whole events or lines. They are the end of a stream."""


# What a translation posts to these generates the answer; all else that it posts only prepares it.
GENERATING_TARGETS = frozenset((b"/v1/chat/completions", b"/completion", b"/infill"))

PostToChild = Callable[[bytes, bytes], Awaitable[UpstreamResponse]]  # target, JSON body


class Translation(Protocol):
    """A request in an API that llama-server does not speak."""

    @property
    def media_type(self) -> bytes: ...

    def __call__(self, post: PostToChild, /) -> AsyncGenerator[bytes]:
        """Sends requests to the child, as many as it needs, and yields the answer for the client. Raises
        RouterError."""


@runtime_checkable
class CuttableTranslation(Translation, Protocol):
    """A translation that can end its answer when its time is up."""

    def cut(self) -> bytes | None:
        """The rest of the answer, which says in the words of its API that it was cut: `length`, `incomplete`,
        `max_tokens`. Without a stream it is the whole answer, with as much as was generated. Called after the
        generator was closed. None: the answer ends as an error."""
