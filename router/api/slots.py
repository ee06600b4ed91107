"""What a request may have written to files, and read from them: `/slots/{slot}?action=save` and `restore`.

The engine does both in the folder that the operator named, by a name that the client chooses. A request that could mean
one thing here and another one there is refused.
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
LONGEST = 128  # bytes of a name
LONGEST_BODY = 2**16
_SPECIAL = frozenset('/\\:*?"<>|')  # separators, and what no name on Windows has


class Slots:
    """`check` is for the requests of this path."""

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
    """What is to be done, None where nothing is said. Raises InvalidRequest unless it is said once and plainly."""
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
    """Raises InvalidRequest unless the body names one plain file."""
    if len(body) > LONGEST_BODY:
        raise _too_long()
    fields = json_object(body)
    name = fields.get("filename")
    if not isinstance(name, str) or not name:
        raise InvalidRequest('Send {"filename": NAME}, the name of a file in the folder of --slot-save-path.')
    if _is_repeated(body, "filename"):
        raise InvalidRequest('Send one "filename".')
    # A full stop or a blank at the end is not part of the name for every system.
    is_plain = name.isprintable() and _SPECIAL.isdisjoint(name) and ".." not in name and name[-1] not in ". "
    if not is_plain or name[0] in ". -" or len(name.encode()) > LONGEST:
        raise InvalidRequest(
            f'"filename" is a plain name of at most {LONGEST} bytes: no folders, no full stop at its beginning or end, '
            "no control characters. Files lie in the folder of --slot-save-path."
        )


def _check_form(body: bytes) -> None:
    """Raises InvalidRequest for a form that says what is to be done: to the engine its fields are the query's too, and
    count for more. JSON that goes by a form's name, as `curl -d` sends it, says nothing."""
    if len(body) > LONGEST_BODY:
        raise _too_long()
    if action(b"?" + body) is not None:
        raise InvalidRequest("Say what is to be done with the slot in the query, as ?action=save, not in a form.")


def _too_long() -> InvalidRequest:
    return InvalidRequest(f'Send nothing but {{"filename": NAME}} and the model; {LONGEST_BODY} bytes are enough.')


def _is_repeated(body: bytes, name: str) -> bool:
    """Whether an object of the body has the field twice: parsers differ in which one counts."""
    repeated = False

    def see(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        repeated = repeated or sum(key == name for key, _ in pairs) > 1
        return dict(pairs)

    json.loads(body.decode("utf-8-sig"), object_pairs_hook=see)
    return repeated
