from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from router.errors import BodyTooLarge, InvalidRequest
from router.proxy.body import read_body
from router.proxy.routing import (
    TIME_LIMIT_FIELD,
    TOKEN_LIMIT_FIELDS,
    has_context_option,
    has_no_token_limit,
    routing_fields,
    with_time_limit,
)


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
        assert routing_fields(body, kind)[:2] == wish


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "not valid JSON"),
        (b"model=a", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        ("{}".encode("utf-16"), "not valid JSON"),
        ("{}".encode("utf-32-be"), "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"max_tokens": ' + b"1" * 10_000 + b"}", "not valid JSON"),
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
        routing_fields(body, "application/json")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'{"model": "a", "model": "m", "messages": [{"model": "b"}]}', {"model": "m"}),
        (b'{"a": NaN, "model": "m"}', {"a": pytest.approx(float("nan"), nan_ok=True), "model": "m"}),
        (b'{"a": "\\ud800", "model": "m"}', {"a": "\ud800", "model": "m"}),
        (b'{"a": ' + b"1" * 10_000 + b', "model": "m"}', {"model": "m"}),
        (b'{"options": {"num_ctx": 1}, "n_predict": null}', {"options": {"num_ctx": 1}, "n_predict": None}),
    ],
)
def test_what_is_looked_at(body: bytes, fields: dict[str, Any]) -> None:
    assert routing_fields(body, None).fields == fields


def test_what_is_passed_over_is_not_decoded() -> None:
    body = json.dumps({"messages": [{"content": ["x" * 2**20] * 20}], "n": [[]] * 10_000, "model": "m"}).encode()
    tracemalloc.start()
    try:
        assert routing_fields(body, "application/json").model == "m"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**17


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
    assert routing_fields(form(*parts), 'multipart/form-data; boundary="XX"') == ("whisper", True, None)


def test_form_without_a_model() -> None:
    # a file that is called model is not the name of one
    assert routing_fields(form(('name="model"; filename="x"', b"a")), "multipart/form-data; boundary=XX") == (
        None,
        False,
        None,
    )
    assert routing_fields(form(AUDIO)[:300], "multipart/form-data; boundary=XX") == (None, False, None)


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=YY", "; boundary=" + "X" * 5000])
def test_bad_form(boundary: str) -> None:
    with pytest.raises(InvalidRequest, match="multipart form"):
        routing_fields(form(AUDIO), "multipart/form-data" + boundary)


def test_long_field_is_cut() -> None:
    model = routing_fields(form(('name="model"', b"m" * 1_000_000)), "multipart/form-data; boundary=XX").model
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


# Limits


@pytest.mark.parametrize(
    ("path", "fields", "unlimited"),
    [
        ("/v1/chat/completions", {}, True),
        ("/v1/chat/completions", {"max_tokens": 5}, False),
        ("/v1/chat/completions", {"max_tokens": 0}, False),  # nothing is generated
        ("/v1/chat/completions", {"max_tokens": 5.0}, False),
        ("/v1/chat/completions", {"max_tokens": -1}, True),
        ("/v1/chat/completions", {"max_tokens": None}, True),
        ("/v1/chat/completions", {"max_tokens": "5"}, True),
        ("/v1/chat/completions", {"max_tokens": [5]}, True),
        ("/v1/chat/completions", {"max_completion_tokens": 5}, False),
        ("/v1/chat/completions", {"max_completion_tokens": None, "max_tokens": 5}, False),
        ("/v1/chat/completions", {"max_tokens": 5, "n_predict": -1}, True),
        ("/v1/chat/completions", {"max_output_tokens": 5}, True),
        ("/chat/completions", {"n_predict": 5}, False),
        ("/v1/completions", {"max_tokens": 5}, False),
        ("/completion", {"n_predict": 5}, False),
        ("/infill", {"prompt": "x"}, True),
        ("/v1/responses", {"max_output_tokens": 5}, False),
        ("/responses", {"max_tokens": 5}, False),
        ("/responses", {"max_tokens": 5, "max_output_tokens": -1}, True),
        ("/v1/messages", {"max_tokens": 5}, False),
        ("/v1/messages", {"n_predict": 5}, True),
        ("/v1/messages/count_tokens", {}, False),
        ("/v1/chat/completions/input_tokens", {}, False),
        ("/v1/chat/completions/control", {}, False),
        ("/v1/embeddings", {}, False),
        ("/tokenize", {}, False),
    ],
)
def test_limits(path: str, fields: dict[str, Any], unlimited: bool) -> None:  # B-L14
    assert has_no_token_limit(path, fields) is unlimited


SPACE = st.text(" \t\r\n", max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('{}",:é模\\', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('{}"é', max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([TIME_LIMIT_FIELD, *(name for names in TOKEN_LIMIT_FIELDS.values() for name in names)])


@given(
    fields=st.dictionaries(KEYS | st.text(max_size=5).filter(lambda key: key != "model"), JSON, max_size=4),
    indent=st.sampled_from([None, 0, 2]),
    escaped=st.booleans(),
    before=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    space=st.tuples(SPACE, SPACE, SPACE),
    seconds=st.floats(1e-6, 1e6),
)
def test_time_limit(  # B-L14
    fields: dict[str, Any],
    indent: int | None,
    escaped: bool,
    before: bytes,
    space: tuple[str, str, str],
    seconds: float,
) -> None:
    text = json.dumps(fields, indent=indent, ensure_ascii=escaped)
    body = before + f"{space[0]}{{{space[1]}{text[1:]}{space[2]}".encode()
    found = routing_fields(body, None).fields
    assert found is not None
    limited = with_time_limit(body, found, seconds)
    if TIME_LIMIT_FIELD in fields:
        assert limited is body
        return
    value = json.loads(limited)
    assert next(iter(value)) == TIME_LIMIT_FIELD
    assert value.pop(TIME_LIMIT_FIELD) == max(1, round(seconds * 1000))
    assert value == json.loads(body)
    brace = body.index(b"{") + 1
    assert (limited[:brace], limited[-len(body[brace:]) :]) == (body[:brace], body[brace:])


def test_a_large_body_is_copied_once() -> None:  # B-L14
    body = b'{"prompt":"%b"}' % (b"x" * 8_000_000)
    tracemalloc.start()
    limited = with_time_limit(body, {"prompt": ""}, 600)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert limited == b'{"t_max_predict_ms":600000,' + body[1:]
    assert most < 1.01 * len(body)


@pytest.mark.parametrize(
    ("fields", "asks"),
    [
        ({"num_ctx": 8192}, True),
        ({"options": {"num_ctx": 8192}}, True),
        ({"options": {"seed": 1}}, False),
        ({"options": "num_ctx"}, False),
        ({"prompt": "num_ctx"}, False),
    ],
)
def test_a_context_is_asked_for(fields: dict[str, Any], asks: bool) -> None:
    assert has_context_option(fields) is asks
