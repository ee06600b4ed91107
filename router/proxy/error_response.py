"""A RouterError on its way to the client: from a child's error, and into the client's dialect.

Each dialect renders errors itself (`protocols.Dialect`); all endpoints get there through `error_response`.
"""

from __future__ import annotations

from starlette.responses import Response

from router.errors import RouterError, UpstreamFailed
from router.proxy.head import REQUEST_ID_HEADERS
from router.proxy.protocols import Dialect
from router.wire.child_json import error_message, error_type
from router.wire.response import Response as UpstreamResponse

MAX_ERROR_BYTES = 256 * 1024  # of an error that a child sends


def error_response(dialect: Dialect, exc: RouterError, request_id: bytes) -> Response:
    response = dialect.error(exc, request_id.decode())
    response.headers.update({name.decode(): request_id.decode() for name in REQUEST_ID_HEADERS})
    return response


async def read_upstream_error(answer: UpstreamResponse, data: bytes = b"") -> RouterError:
    """What a child answered in place of the expected response, as an error with the child's status and type. `data`:
    the part of the body that was read already. Raises UpstreamFailed."""
    data += await answer.read_up_to(MAX_ERROR_BYTES)
    error = UpstreamFailed(error_message(data[:MAX_ERROR_BYTES]))
    if answer.status >= 400:
        error.status, error.code = answer.status, error_type(data[:MAX_ERROR_BYTES]) or error.code
    return error
