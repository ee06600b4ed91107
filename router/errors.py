"""What can go wrong, once, as a tree.

::

    RouterError                     500  server_error
    ├── InvalidRequest              400  invalid_request_error
    │   └── NotLoaded               400  the model is not running and this request may not load it
    ├── Unauthorized                401  authentication_error
    ├── Forbidden                   403  permission_error: the hub wants a token or a licence, or it would be unsafe
    ├── UnknownModel                404  not_found_error
    ├── UnknownStream               404  not_found_error: a conversation without a stream
    ├── BodyTooLarge                413  invalid_request_error
    ├── UnsupportedType             415  invalid_request_error: a browser sent something else than JSON
    ├── ModelTooLarge               507  insufficient_memory: would not fit on the empty machine
    ├── InsufficientDisk            507  insufficient_storage: what is to be downloaded would not fit on the disk
    ├── Unavailable                 503  unavailable_error, with Retry-After
    │   ├── QueueFull
    │   ├── QueueTimeout
    │   ├── Cancelled                    an unload or the shutdown took the request off the queue
    │   ├── BackingOff                   the model crashed repeatedly
    │   └── HubUnavailable               the hub did not answer, or asked to come again later
    ├── LoadFailed                  500  the child ended, or was silent, before it was ready
    ├── Unsupported                 501  not_supported_error: a part of an API that the router does not have
    ├── UpstreamFailed              502  the child died before it answered, or in the middle
    │   └── Unreachable             502  no sign that the child took the request: it may go to another
    ├── GenerationTimeout           504  timeout_error: an answer without a token limit took too long
    ├── GgufError                   500  a model file that cannot be read
    └── ConfigError                      for whoever starts the router: exit code 2, never HTTP
        ├── FlagError                    a command-line argument
        ├── PresetError                  a preset file: path, line, key
        ├── CatalogError                 sources that contradict each other
        └── EngineError                  no usable llama-server

`status` and `code` are those of llama.cpp's error object (tools/server, `error_type`). Each dialect renders a
RouterError in its own shape, in one place; messages are sentences that say what to do next.
"""

from __future__ import annotations

from pathlib import Path


class RouterError(Exception):
    """`retry_after` is in seconds; None means that trying again later changes nothing. `param` is the field of the
    request that is wrong, as far as it is one."""

    status = 500
    code = "server_error"
    param: str | None = None

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class InvalidRequest(RouterError):
    status = 400
    code = "invalid_request_error"


class NotLoaded(InvalidRequest):
    pass


class Unauthorized(RouterError):
    status = 401
    code = "authentication_error"


class Forbidden(RouterError):
    status = 403
    code = "permission_error"


class UnknownModel(RouterError):
    status = 404
    code = "not_found_error"
    param = "model"


class UnknownStream(RouterError):
    status = 404
    code = "not_found_error"


class BodyTooLarge(RouterError):
    status = 413
    code = "invalid_request_error"


class UnsupportedType(RouterError):
    status = 415
    code = "invalid_request_error"


class ModelTooLarge(RouterError):
    status = 507
    code = "insufficient_memory"


class InsufficientDisk(RouterError):
    status = 507
    code = "insufficient_storage"


class Unavailable(RouterError):
    status = 503
    code = "unavailable_error"

    def __init__(self, message: str, *, retry_after: float | None = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)


class QueueFull(Unavailable):
    pass


class QueueTimeout(Unavailable):
    pass


class Cancelled(Unavailable):
    pass


class BackingOff(Unavailable):
    pass


class HubUnavailable(Unavailable):
    pass


class LoadFailed(RouterError):
    pass


class Unsupported(RouterError):
    status = 501
    code = "not_supported_error"


class UpstreamFailed(RouterError):
    status = 502
    code = "upstream_error"


class Unreachable(UpstreamFailed):
    """`is_deaf`: nobody listens where the child should."""

    is_deaf = False


class GenerationTimeout(RouterError):
    status = 504
    code = "timeout_error"


class GgufError(RouterError):
    pass


class ConfigError(RouterError):
    """Ends the program with exit code 2 and its message on stderr."""

    exit_code = 2


class FlagError(ConfigError):
    pass


class PresetError(ConfigError):
    """`line` counts from 1; 0 when the whole file is meant."""

    def __init__(self, message: str, *, path: Path | None = None, line: int = 0, key: str | None = None) -> None:
        where = f"{path or 'preset'}:{line}: " if line else f"{path}: " if path else ""
        super().__init__(where + message)
        self.path, self.line, self.key, self.reason = path, line, key, message


class CatalogError(ConfigError):
    pass


class EngineError(ConfigError):
    pass
