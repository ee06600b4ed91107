"""The fields of a multipart form are read, its files are not."""

from __future__ import annotations

import pytest

from router.errors import InvalidRequest
from router.proxy.routing import (
    routing_fields,
)


def form(*parts: tuple[str, bytes]) -> bytes:
    lines = [
        b"--XX\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (how.encode(), data)
        for how, data in parts
    ]
    return b"".join(lines) + b"--XX--\r\n"


AUDIO = ('name="file"; filename="model"', b"RIFF\r\n--X\r\n\0" * 10_000)


@pytest.mark.parametrize("audio_first", [True, False])
def test_form_names_the_model(audio_first: bool) -> None:
    fields = [('name="model"', b"whisper"), ('name="stream"', b"true")]
    parts = [AUDIO, *fields] if audio_first else [*fields, AUDIO]
    assert routing_fields(form(*parts), 'multipart/form-data; boundary="XX"')[:3] == ("whisper", True, None)


def test_file_is_not_taken_for_a_field() -> None:
    # a file that is called model is not the name of one
    assert routing_fields(form(('name="model"; filename="x"', b"a")), "multipart/form-data; boundary=XX")[:3] == (
        None,
        False,
        None,
    )
    assert routing_fields(form(AUDIO)[:300], "multipart/form-data; boundary=XX")[:3] == (None, False, None)


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=YY", "; boundary=" + "X" * 5000])
def test_bad_form_is_refused(boundary: str) -> None:
    with pytest.raises(InvalidRequest, match="multipart form"):
        routing_fields(form(AUDIO), "multipart/form-data" + boundary)


def test_long_field_is_cut() -> None:
    model = routing_fields(form(('name="model"', b"m" * 1_000_000)), "multipart/form-data; boundary=XX").model
    assert model is not None
    assert len(model) == 65536
