"""What the router changes in a request, and that it changes nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.api.messages.request import chat_request
from router.api.responses.request import translate
from router.errors import InvalidRequest
from router.models.spec import Filters
from router.proxy.rewrite import PATHS, apply_filters, encode_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
WORDS = ("messages", "system", "instructions", "reasoning_effort", "reasoning", "thinking", "chat_template_kwargs")
NAMES = st.sampled_from((*WORDS, "max_tokens", "n_predict", "max_output_tokens", "temperature", "other"))
FIELDS = st.dictionaries(NAMES, JSON)
CHATS, MESSAGE, RESPONSE = "/chat/completions", "/messages", "/responses"


def forced(**values: Any) -> tuple[tuple[str, str], ...]:
    return tuple((name, json.dumps(value)) for name, value in values.items())


def test_forced_values_win_over_the_client_and_defaults() -> None:
    filters = Filters(forced(top_p=0.5), forced(temperature=0.1, seed=1, top_p=1), ("min_p",))
    said = {"top_p": 0.9, "temperature": 0.7, "min_p": 0.1, "seed": None, "user": "me"}
    assert apply_filters(CHATS, said, filters) == {"top_p": 0.5, "temperature": 0.7, "seed": 1, "user": "me"}
    assert said == {"top_p": 0.9, "temperature": 0.7, "min_p": 0.1, "seed": None, "user": "me"}


def test_default_replaces_a_dropped_field() -> None:
    filters = Filters((), forced(temperature=0.1), ("temperature",))
    assert apply_filters(CHATS, {"temperature": 2}, filters) == {"temperature": 0.1}


@pytest.mark.parametrize("path", ["/chat/completions", "/completion", "/responses", "/messages", "/infill"])
@pytest.mark.parametrize("name", ["n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens"])
@pytest.mark.parametrize("said", ["n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_token_limit_is_one_field_with_many_names(path: str, name: str, said: str) -> None:
    assert apply_filters(path, {said: 7}, Filters(forced(**{name: 3}))) == {"max_tokens": 3}
    assert apply_filters(path, {said: 7}, Filters((), forced(**{name: 3}))) == {said: 7}
    assert apply_filters(path, {}, Filters((), forced(**{name: 3}))) == {"max_tokens": 3}
    assert apply_filters(path, {said: 7}, Filters(dropped=(name,))) == {}


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize("content", ["Be long.", ""])
def test_a_default_system_message_and_examples_come_before_a_chat(content: str) -> None:  # B-C13
    filters = Filters(default_system="Be brief.", messages='[{"role": "user", "content": "one"}]')
    hi, one = {"role": "user", "content": "hi"}, {"role": "user", "content": "one"}
    given = [{"role": "system", "content": content}] if content else []
    system = {"role": "system", "content": content or "Be brief."}
    changed = apply_filters("/chat/completions", {"messages": [*given, hi]}, filters)
    assert changed["messages"] == [system, one, hi]
    assert apply_filters("/chat/completions", {"messages": 1}, filters) == {"messages": 1}
    brief = {"role": "system", "content": "Be brief."}
    assert filtered_chat(MESSAGE, {"messages": [hi]}, filters) == [brief, one, hi]
    own, example, question = filtered_chat(RESPONSE, {"input": "hi", "instructions": "x"}, filters)
    assert (system_of([own, question]), example) == ("x", one)
    assert apply_filters("/completions", {"prompt": "x"}, filters) == {"prompt": "x"}


SYSTEM = Filters(system="Be brief.")


@pytest.mark.parametrize(
    ("path", "fields", "becomes"),
    [
        (CHATS, {"messages": [USER]}, {"messages": [{"role": "system", "content": "Be brief."}, USER]}),
        (CHATS, {"messages": []}, {"messages": [{"role": "system", "content": "Be brief."}]}),
        (
            CHATS,
            {"messages": [{"role": "developer", "name": "n", "content": "Go."}, USER]},
            {"messages": [{"role": "developer", "name": "n", "content": "Be brief.\n\nGo."}, USER]},
        ),
        (
            CHATS,
            {"messages": [{"role": "system", "content": [{"type": "text", "text": "Go."}]}]},
            {
                "messages": [
                    {
                        "role": "system",
                        "content": [{"type": "text", "text": "Be brief.\n\n"}, {"type": "text", "text": "Go."}],
                    }
                ]
            },
        ),
        (CHATS, {"messages": [{"role": "system"}]}, {"messages": [{"role": "system", "content": "Be brief."}]}),
        (CHATS, {"messages": "text"}, {"messages": "text"}),
        (CHATS, {}, {}),
        ("/completion", {"prompt": "hi"}, {"prompt": "hi"}),
    ],
)
def test_system_message_is_added_to_a_chat(path: str, fields: dict[str, Any], becomes: dict[str, Any]) -> None:
    assert apply_filters(path, fields, SYSTEM) == becomes


def filtered_chat(path: str, fields: dict[str, Any], filters: Filters) -> list[dict[str, Any]]:
    """The messages that a request of Messages or Responses has in the end."""
    if path == MESSAGE:
        chat = chat_request({"messages": [USER], "max_tokens": 9, **fields}).fields
    else:
        chat = translate(fields, "m", [], lambda id: None).fields
    return list(apply_filters(CHATS, chat, filters)["messages"])


def system_of(messages: list[dict[str, Any]]) -> str:
    """The text of the first message, which is the only one for the system."""
    assert [message["role"] for message in messages[1:]] == ["user"]
    assert messages[0]["role"] in ("system", "developer")
    content = messages[0]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.mark.parametrize(
    ("path", "fields", "system"),
    [
        (MESSAGE, {}, "Be brief."),
        (MESSAGE, {"system": "Go."}, "Be brief.\n\nGo."),
        (MESSAGE, {"system": [{"type": "text", "text": "Go.", "cache_control": {}}]}, "Be brief.\n\nGo."),
        (MESSAGE, {"system": None}, "Be brief."),
        (RESPONSE, {"input": "hi"}, "Be brief."),
        (RESPONSE, {"input": "hi", "instructions": "Go."}, "Be brief.\n\nGo."),
    ],
)
def test_system_message_is_added_in_each_dialect(path: str, fields: dict[str, Any], system: str) -> None:
    assert system_of(filtered_chat(path, fields, SYSTEM)) == system


def test_a_system_message_of_a_wrong_kind_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="system"):
        filtered_chat(MESSAGE, {"system": 5}, SYSTEM)


@given(path=st.sampled_from(sorted(PATHS)), fields=FIELDS, values=FIELDS, dropped=st.lists(NAMES), system=st.text())
def test_any_request_is_rewritten_to_valid_json(
    path: str, fields: dict[str, Any], values: dict[str, Any], dropped: list[str], system: str
) -> None:
    """The result is JSON, has the forced values, and all other fields are unchanged."""
    filters = Filters(forced(**values), (), tuple(dropped), system)
    after = json.loads(encode_json(apply_filters(path, fields, filters)))
    if "other" not in {*values, *dropped}:
        assert after.get("other") == fields.get("other")
    for name in {"temperature", "other"} & values.keys():
        assert after[name] == values[name]


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1e999}', '{"a": -Infinity}'])
def test_values_that_are_not_json_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        encode_json(json.loads(text))


def test_lone_surrogates_pass() -> None:
    assert json.loads(encode_json(json.loads('{"a": "\\ud800"}'))) == {"a": "\ud800"}
