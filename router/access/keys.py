"""PURE: API keys and admin keys, and which permission each of them gives. Called by `guard`."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence

from router.access.permissions import ADMIN, GENERATE, OPEN, Permission

Headers = Sequence[tuple[bytes, bytes]]  # names in lower case

KEY_HEADERS = (b"authorization", b"x-api-key")


class Keys:
    """The keys that are set.

    An API key allows reading and generating. Without admin keys an API key allows everything. An admin key allows
    everything. Without API keys, reading and generating take no key.
    """

    def __init__(self, api: Iterable[str] = (), admin: Iterable[str] = ()) -> None:
        self._keys = [(key.encode(), GENERATE) for key in api] + [(key.encode(), ADMIN) for key in admin]
        self.has_api = any(permission is GENERATE for _, permission in self._keys)
        self.has_admin = any(permission is ADMIN for _, permission in self._keys)

    def __repr__(self) -> str:
        return f"<Keys: {len(self._keys)}, {self.has_api=}, {self.has_admin=}>"

    def __bool__(self) -> bool:
        return bool(self._keys)

    def is_open(self, permission: Permission) -> bool:
        """This permission takes no key."""
        return permission is OPEN or not (self.has_api or (self.has_admin and permission is ADMIN))

    def permission(self, headers: Headers) -> Permission:
        """The highest permission that the keys in these headers give. A header that comes twice does not count: a proxy
        in between may have read the other one."""
        return self.permission_of([value for name in KEY_HEADERS if (value := only_value(headers, name)) is not None])

    def permission_of(self, values: Iterable[bytes]) -> Permission:
        """The highest permission that the keys in these header values give."""
        highest = OPEN
        for value in values:
            token = _token(value)
            for key, permission in self._keys:
                # Every key is compared, and each in constant time: the time of the answer says nothing about the keys.
                if hmac.compare_digest(token, key) and permission > highest:
                    highest = permission
        return ADMIN if highest is GENERATE and not self.has_admin else highest


def only_value(headers: Headers, name: bytes) -> bytes | None:
    """The value of a header that comes exactly once."""
    values = [value for header, value in headers if header == name]
    return values[0] if len(values) == 1 else None


def _token(header: bytes) -> bytes:
    """The key in a header. llama-server insists on `Bearer` in neither of the two headers."""
    scheme, _, token = header.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else header
