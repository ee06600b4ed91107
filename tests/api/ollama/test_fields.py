"""Single fields of Ollama's requests."""

from __future__ import annotations

import pytest

from router.api.ollama.fields import embedding_inputs
from router.errors import InvalidRequest


def test_inputs_are_one_text_or_a_list() -> None:
    assert [embedding_inputs({"input": given}) for given in ("a", ["a", "b"], [], None)] == [["a"], ["a", "b"], [], []]
    for wrong in (1, [1], {"a": 1}, [["a"]]):
        with pytest.raises(InvalidRequest):
            embedding_inputs({"input": wrong})
