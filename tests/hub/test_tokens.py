"""A token that comes with a request is checked, and never repeated."""

from __future__ import annotations

import pytest

from router.errors import InvalidField
from router.hub.tokens import token_of


@pytest.mark.parametrize(("fields", "token"), [({}, None), ({"hf_token": None}, None), ({"hf_token": ""}, None)])
def test_no_token(fields: dict[str, object], token: str | None) -> None:
    assert token_of(fields) is token


def test_a_token() -> None:
    assert token_of({"hf_token": "hf_abc"}) == "hf_abc"


@pytest.mark.parametrize("value", ["hf secret", "hf\r\nX: secret", "secrét", "secret" * 200, 7, ["secret"], True])
def test_what_is_no_token_is_refused_and_not_repeated(value: object) -> None:  # B-H6
    with pytest.raises(InvalidField, match="hf_token") as caught:
        token_of({"hf_token": value})
    assert "secr" not in caught.value.message
