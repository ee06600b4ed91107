from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from router.api.body import asked, read_body
from router.errors import BodyTooLarge, InvalidRequest


@pytest.mark.parametrize(
    ("body", "wish"),
    [
        (b"", (None, False)),
        (b"{}", (None, False)),
        (b'{"model": null}', (None, False)),
        (b'{"model": "a b/c:Q4"}', ("a b/c:Q4", False)),
        (b'\xef\xbb\xbf{"model": "m"}', ("m", False)),
        ('{"model": "模型", "stream": true}'.encode(), ("模型", True)),
        (b'{"stream": 1}', (None, False)),
    ],
)
def test_json(body: bytes, wish: tuple[str | None, bool]) -> None:
    for kind in (None, "application/json", "application/x-www-form-urlencoded", "text/plain; charset=x"):
        assert asked(body, kind) == wish


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "not valid JSON"),
        (b"model=a", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "not valid JSON"),
        (b"[]", "object, not a list"),
        (b'"m"', "object, not a string"),
        (b"null", "object, not null"),
        (b'{"model": 3}', "a string.*not a number"),
        (b'{"model": {}}', "a string.*not an object"),
        (b'{"model": true}', "a string.*not true or false"),
        (b'{"model": "a\\nb"}', "control characters"),
        (b'{"model": "\\ud800"}', "control characters"),
    ],
)
def test_bad_json(body: bytes, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as caught:
        asked(body, "application/json")
    assert len(str(caught.value)) < 200


def form(*parts: tuple[str, bytes]) -> bytes:
    lines = [
        b"--XX\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (how.encode(), data)
        for how, data in parts
    ]
    return b"".join(lines) + b"--XX--\r\n"


AUDIO = ('name="file"; filename="model"', b"RIFF\r\n--X\r\n\0" * 10_000)


@pytest.mark.parametrize("audio_first", [True, False])
def test_form(audio_first: bool) -> None:
    fields = [('name="model"', b"whisper"), ('name="stream"', b"true")]
    parts = [AUDIO, *fields] if audio_first else [*fields, AUDIO]
    assert asked(form(*parts), 'multipart/form-data; boundary="XX"') == ("whisper", True)


def test_form_without_a_model() -> None:
    # a file that is called model is not the name of one
    assert asked(form(('name="model"; filename="x"', b"a")), "multipart/form-data; boundary=XX") == (None, False)
    assert asked(form(AUDIO)[:300], "multipart/form-data; boundary=XX") == (None, False)


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=YY", "; boundary=" + "X" * 5000])
def test_bad_form(boundary: str) -> None:
    with pytest.raises(InvalidRequest, match="multipart form"):
        asked(form(AUDIO), "multipart/form-data" + boundary)


def test_long_field_is_cut() -> None:
    model, _ = asked(form(('name="model"', b"m" * 1_000_000)), "multipart/form-data; boundary=XX")
    assert model is not None
    assert len(model) == 65536


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


async def test_read_body() -> None:
    assert await read_body(request(b"ab", b"cd", length=4)[0], 4) == b"abcd"
    assert await read_body(request()[0], 4) == b""


async def test_too_large_by_its_length_is_not_read() -> None:
    asked_for, messages = request(b"abcde", length=5)
    with pytest.raises(BodyTooLarge, match="--max-body-size"):
        await read_body(asked_for, 4)
    assert len(messages) == 2


async def test_too_large_without_a_length_is_not_read_on() -> None:
    asked_for, messages = request(b"abc", b"de", b"fg")
    with pytest.raises(BodyTooLarge):
        await read_body(asked_for, 4)
    assert len(messages) == 2


async def test_client_leaves_while_sending() -> None:
    with pytest.raises(ClientDisconnect):
        await read_body(request(b"abc", length=9, leaves=True)[0], 10)
