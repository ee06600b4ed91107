"""Which files a request may write and read: `POST /slots/{slot}?action=save`, `restore` and `erase`.

The engine saves a slot into a file of the operator's folder (--slot-save-path), under a name that the client chooses.
The engine's parsers may read a request differently than the router's, so a request that could mean two things is
refused. `native` registers the path with `Slots.check`.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote_to_bytes

from router.engine.flags import value_of
from router.errors import InvalidRequest
from router.models.spec import ModelSpec
from router.pool.pool import Pool
from router.proxy.body import json_object
from router.proxy.head import Head

ACTIONS = (b"save", b"restore", b"erase")
MAX_NAME_BYTES = 128
MAX_BODY_BYTES = 2**16
_SPECIAL = frozenset('/\\:*?"<>|')  # path separators, and what no file name on Windows may contain


class Slots:
    """The check of requests to `/slots/{slot}`, before a child sees them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def check(self, spec: ModelSpec, head: Head, body: bytes) -> None:
        """Raises InvalidRequest."""
        verb = action(head.target)
        if any(name == b"content-type" and b"urlencoded" in value.lower() for name, value in head.headers):
            _check_form(body)
        if verb not in ("save", "restore"):
            return
        if value_of(self._pool.effective(spec.name).args, "--slot-save-path") is None:
            raise InvalidRequest(
                f"The slots of {spec.name!r} are not saved: its preset names no slot-save-path. Set slot-save-path = "
                "FOLDER there, or start the router with --slot-save-path FOLDER."
            )
        check_name(body)


def action(target: bytes) -> str | None:
    """The value of `?action=`, None if there is none.

    Raises InvalidRequest for an action that is repeated, unknown, or spelled in a way that another parser might take
    for an action."""
    found = None
    for pair in target.partition(b"?")[2].replace(b";", b"&").split(b"&"):
        name, _, value = pair.partition(b"=")
        if unquote_to_bytes(name.replace(b"+", b" ")).strip(b"\0\t\n\r ").lower() != b"action":
            continue
        if found is not None or name != b"action" or value not in ACTIONS or b";" in target:
            raise InvalidRequest("Say what is to be done with the slot once, as ?action=save, restore or erase.")
        found = value.decode()
    return found


def check_name(body: bytes) -> None:
    """Raises InvalidRequest unless the body names exactly one plain file."""
    if len(body) > MAX_BODY_BYTES:
        raise _too_long()
    fields = json_object(body)
    name = fields.get("filename")
    if not isinstance(name, str) or not name:
        raise InvalidRequest('Send {"filename": NAME}, the name of a file in the folder of --slot-save-path.')
    if _is_repeated(body, "filename"):
        raise InvalidRequest('Send one "filename".')
    # Windows drops a full stop or a space at the end of a name.
    is_plain = name.isprintable() and _SPECIAL.isdisjoint(name) and ".." not in name and name[-1] not in ". "
    if not is_plain or name[0] in ". -" or len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidRequest(
            f'"filename" is a plain name of at most {MAX_NAME_BYTES} bytes: no folders, no full stop at its beginning '
            "or end, no control characters. Files lie in the folder of --slot-save-path."
        )


def _check_form(body: bytes) -> None:
    """Raises InvalidRequest for a form that holds an action: the engine prefers a form's fields to the query's.

    `curl -d` sends JSON with a form's content type; JSON holds no form field, so it passes."""
    if len(body) > MAX_BODY_BYTES:
        raise _too_long()
    if action(b"?" + body) is not None:
        raise InvalidRequest("Say what is to be done with the slot in the query, as ?action=save, not in a form.")


def _too_long() -> InvalidRequest:
    return InvalidRequest(f'Send nothing but {{"filename": NAME}} and the model; {MAX_BODY_BYTES} bytes are enough.')


def _is_repeated(body: bytes, name: str) -> bool:
    """Whether an object in the body has the field twice: parsers differ in which one they take."""
    repeated = False

    def see(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        repeated = repeated or sum(key == name for key, _ in pairs) > 1
        return dict(pairs)

    json.loads(body.decode("utf-8-sig"), object_pairs_hook=see)
    return repeated
