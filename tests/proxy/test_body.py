"""A body is read within its limit."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from router.errors import BodyTooLarge
from router.proxy.body import read_body


def request(*parts: bytes, length: int | None = None, leaves: bool = False) -> tuple[Request, list[dict[str, Any]]]:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if leaves:
        messages.append({"type": "http.disconnect"})
    else:
        messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    headers = [] if length is None else [(b"content-length", b"%d" % length)]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive), messages


async def test_body_is_read_to_its_end() -> None:
    assert await read_body(request(b"ab", b"cd", length=4)[0], 4) == b"abcd"
    assert await read_body(request()[0], 4) == b""


async def test_body_with_a_large_length_is_not_read() -> None:
    asked_for, messages = request(b"abcde", length=5)
    with pytest.raises(BodyTooLarge, match="--max-body-size"):
        await read_body(asked_for, 4)
    assert len(messages) == 2


async def test_large_body_without_a_length_is_not_read_on() -> None:
    asked_for, messages = request(b"abc", b"de", b"fg")
    with pytest.raises(BodyTooLarge):
        await read_body(asked_for, 4)
    assert len(messages) == 2


async def test_disconnect_while_sending_is_raised() -> None:
    with pytest.raises(ClientDisconnect):
        await read_body(request(b"abc", length=9, leaves=True)[0], 10)
