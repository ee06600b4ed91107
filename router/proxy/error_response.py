"""A RouterError on its way to the client: from a child's error, and into the client's dialect.

Each dialect renders errors itself (`protocols.Dialect`); all endpoints get there through `error_response`.
"""

from __future__ import annotations

from starlette.responses import Response

from router.errors import RouterError
from router.proxy.child_errors import clearer_error, error_of
from router.proxy.head import REQUEST_ID_HEADERS
from router.proxy.protocols import Dialect
from router.wire.response import Response as UpstreamResponse

MAX_ERROR_BYTES = 256 * 1024  # of an error that a child sends


def error_response(dialect: Dialect, exc: RouterError, request_id: bytes) -> Response:
    response = dialect.error(exc, request_id.decode())
    response.headers.update({name.decode(): request_id.decode() for name in REQUEST_ID_HEADERS})
    return response


def is_rewritten(status: int, data: bytes) -> bool:
    """Whether the client gets this error of a child in other words. `data` is its body."""
    return clearer_error(status, data[:MAX_ERROR_BYTES]) is not None


async def read_upstream_error(answer: UpstreamResponse, data: bytes = b"") -> RouterError:
    """What a child answered in place of the expected response, as an error with the child's status and type. `data`:
    the part of the body that was read already. Raises UpstreamFailed."""
    data += await answer.read_up_to(MAX_ERROR_BYTES)
    return error_of(answer.status, data[:MAX_ERROR_BYTES])
