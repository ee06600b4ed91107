from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import LoadFailed
from router.text import model_name, valid


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"qwen3", "qwen3"),
        (b"caf\xe9", "caf%E9"),
        (b"a\nb", "a%0Ab"),
        (b"\x1b[31mred", "%1B[31mred"),
        ("r\u202etl".encode(), "r%E2%80%AEtl"),
        ("q\"uo'te / \\ 日本 é\xa0x".encode(), "q\"uo'te / \\ 日本 é\xa0x"),
    ],
)
def test_what_nobody_can_type_is_escaped_in_names(name: bytes, shown: str) -> None:  # B-F1
    assert model_name(os.fsdecode(name)) == shown


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.binary(max_size=40).filter(lambda name: b"\0" not in name) | TEXTS.map(os.fsencode))
def test_any_name_becomes_valid_text(name: bytes) -> None:
    text = os.fsdecode(name)
    for result in (valid(text), model_name(text), LoadFailed(text).message):
        assert json.loads(json.dumps(result, ensure_ascii=False).encode()) == result
    assert model_name(model_name(text)) == model_name(text)


def test_paths_in_errors_are_valid_text() -> None:  # B-F1
    assert LoadFailed(os.fsdecode(b"/m/caf\xe9.gguf")).message == "/m/caf\\xe9.gguf"
    assert valid("\ud800") == "\\ud800"
