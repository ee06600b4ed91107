"""What can go wrong, once, as a tree.

::

    RouterError                     500  server_error
    ├── InvalidRequest              400  invalid_request_error
    │   ├── InvalidField            400  one field of the request is wrong
    │   ├── MediaRefused            400  the model sees no images, hears no sound, or reads no files
    │   ├── ContextExceeded         400  exceed_context_size_error: the prompt is longer than the context
    │   ├── NotLoaded               400  the model does not run, and this request may not load it
    │   └── Stopped                 400  stopped_error: an operator has ended this request
    ├── Unauthorized                401  authentication_error
    ├── Forbidden                   403  permission_error: this client may not, or the hub demands a token or a licence
    ├── UnknownModel                404  not_found_error
    ├── UnknownStream               404  not_found_error: the conversation has no stream
    ├── UnknownRequest              404  not_found_error: no request with this id runs or waits
    ├── UnknownResponse             404  not_found_error: no such response is kept for this client
    ├── BodyTooLarge                413  invalid_request_error
    ├── UnsupportedType             415  invalid_request_error: a browser sent no JSON, or the body is packed oddly
    ├── ModelTooLarge               507  insufficient_memory: the model would not fit on the empty machine
    ├── InsufficientDisk            507  insufficient_storage: the download would not fit on the disk
    ├── Unavailable                 503  unavailable_error, with Retry-After
    │   ├── QueueFull
    │   ├── QueueTimeout
    │   ├── Cancelled                    an unload or the shutdown took the request off the queue
    │   ├── BackingOff                   the model failed several times in a row
    │   ├── DeviceLost                   only a GPU that cannot be read could hold the model
    │   ├── HubUnavailable               the hub did not answer, or said to come again later
    │   └── CutOff                       the child was stopped in the middle of its answer; an UpstreamFailed too
    ├── LoadFailed                  500  the child ended, or was silent, before it was ready
    │   └── SettingsRefused         500  the model's header tells that the engine would refuse its settings
    ├── Unsupported                 501  not_supported_error: a part of an API that the router does not have
    ├── UpstreamFailed              502  the child died before its answer, or in the middle of it
    │   ├── ChildHung               502  the child showed no life any more, and was ended
    │   └── Unreachable             502  nothing says that the child took the request: it may go to another child
    ├── GenerationTimeout           504  timeout_error: an answer without a token limit took too long
    ├── GgufError                   500  a model file cannot be read
    └── ConfigError                      for the person who starts the router: exit code 2, never HTTP
        ├── FlagError                    a command-line argument
        ├── PresetError                  a preset file: path, line, key
        ├── CatalogError                 sources that contradict each other
        └── EngineError                  no usable llama-server

`status` and `code` are those of llama.cpp's error object (tools/server, `error_type`). A message is a sentence that
says what to do next. Each dialect renders a RouterError in its own shape, in one place. Every package raises these
errors; foreign exceptions become one of them at the door of their library.
"""

from __future__ import annotations

import re
from pathlib import Path

from router.text import valid


class RouterError(Exception):
    """`retry_after` is in seconds; None means that trying again later changes nothing.
    `param` is the field of the request that is wrong, if one field is.
    `kind` is the name of its class in records and metrics: "queue_timeout".
    """

    status = 500
    code = "server_error"
    param: str | None = None
    exit_code = 1  # of a command that ends with this error
    kind = "router_error"

    def __init_subclass__(cls) -> None:
        cls.kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        self.message = valid(message)  # it may quote a path, which may hold any bytes
        super().__init__(self.message)
        self.retry_after = retry_after


class InvalidRequest(RouterError):
    status = 400
    code = "invalid_request_error"


class InvalidField(InvalidRequest):
    """The message begins with the name of the field::

    raise InvalidField("tool_choice", "must be a string.")
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f'"{field}" {message}')
        self.param = field


class MediaRefused(InvalidRequest):
    """A part of the request that the model does not take. `kind` is the type of the part in a chat: `image_url`."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class ContextExceeded(InvalidRequest):
    """`prompt` and `limit` are numbers of tokens: of what was sent, and of what fits."""

    code = "exceed_context_size_error"

    def __init__(self, message: str, prompt: int, limit: int) -> None:
        super().__init__(message)
        self.prompt, self.limit = prompt, limit


class NotLoaded(InvalidRequest):
    pass


class Stopped(InvalidRequest):
    code = "stopped_error"

    def __init__(self) -> None:
        super().__init__("An operator of the router has stopped this request. Ask them before you send it again.")


class Unauthorized(RouterError):
    status = 401
    code = "authentication_error"


class Forbidden(RouterError):
    status = 403
    code = "permission_error"


class UnknownModel(RouterError):
    """`asked` is the name that was asked for, if a client did."""

    status = 404
    code = "not_found_error"
    param = "model"
    asked = ""

    def about(self, asked: str) -> UnknownModel:
        """The same, of this name. No part of `__init__`: downloads make errors of any class from their messages."""
        self.asked = asked
        return self


class UnknownStream(RouterError):
    status = 404
    code = "not_found_error"


class UnknownRequest(RouterError):
    status = 404
    code = "not_found_error"


class UnknownResponse(RouterError):
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
    @classmethod
    def by_shutdown(cls) -> Cancelled:
        return cls("The router is shutting down. Send the request again in a moment.", retry_after=5.0)


class BackingOff(Unavailable):
    pass


class DeviceLost(Unavailable):
    pass


class HubUnavailable(Unavailable):
    pass


class LoadFailed(RouterError):
    pass


class SettingsRefused(LoadFailed):
    """`fault` is what is wrong with the settings, without the name of the model."""

    def __init__(self, model: str, fault: str) -> None:
        super().__init__(f"{model!r} cannot be loaded: {fault}.")
        self.fault = fault


class Unsupported(RouterError):
    status = 501
    code = "not_supported_error"


class UpstreamFailed(RouterError):
    status = 502
    code = "upstream_error"


class ChildHung(UpstreamFailed):
    pass


class CutOff(Unavailable, UpstreamFailed):
    pass


class Unreachable(UpstreamFailed):
    """`is_not_listening`: no process listens at the child's address."""

    is_not_listening = False


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
    """`line` counts from 1; 0 means the whole file."""

    def __init__(self, message: str, *, path: Path | None = None, line: int = 0, key: str | None = None) -> None:
        where = f"{path or 'preset'}:{line}: " if line else f"{path}: " if path else ""
        super().__init__(where + message)
        self.path, self.line, self.key, self.reason = path, line, key, message


class CatalogError(ConfigError):
    pass


class EngineError(ConfigError):
    pass
