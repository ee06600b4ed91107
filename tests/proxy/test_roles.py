"""Messages in an order that a template takes: nothing is lost, and what it takes stays as it is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.models.template import TAKES_ALL, Roles
from router.proxy.roles import fitting

STRICT = Roles(late_system=False)
ALTERNATING = Roles(late_system=False, developer=False, repeats=False)


def say(role: str, content: Any = None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": role[0] if content is None else content, **more}


SYSTEM, USER, ASSISTANT, DEVELOPER = map(say, ("system", "user", "assistant", "developer"))


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("messages", "becomes"),
    [
        ([SYSTEM, USER, say("system", "late"), ASSISTANT], [say("system", "s\n\nlate"), USER, ASSISTANT]),
        ([USER, SYSTEM], [SYSTEM, USER]),
        ([DEVELOPER, say("developer", "e"), USER], [say("developer", "d\n\ne"), USER]),
        ([SYSTEM, DEVELOPER, USER], [say("system", "s\n\nd"), USER]),
        (
            [say("system", [text("a"), text("b")]), USER, say("system", "c")],
            [say("system", [text("a"), text("b"), text("\nc")]), USER],
        ),
        ([SYSTEM, say("system", [text("a")])], [say("system", [text("s"), text("\na")])]),
        ([say("system", ""), USER, SYSTEM], [SYSTEM, USER]),
        ([USER, say("system", "", name="n")], [say("system", "", name="n"), USER]),
    ],
)
def test_late_system_messages_become_part_of_the_first(messages: Any, becomes: Any) -> None:  # B-C8
    assert fitting(messages, STRICT) == becomes


@pytest.mark.parametrize("messages", [[SYSTEM, USER], [USER], [], [USER, USER], ["x", SYSTEM], [SYSTEM, 5]])
@pytest.mark.parametrize("roles", [STRICT, TAKES_ALL])
def test_what_the_template_takes_stays(messages: Any, roles: Roles) -> None:
    assert fitting(messages, roles) is messages


def test_a_developer_becomes_the_system() -> None:
    assert fitting([DEVELOPER, USER], Roles(developer=False)) == [say("system", "d"), USER]
    assert fitting([USER, DEVELOPER, SYSTEM], Roles(developer=False)) == [USER, say("system", "d"), SYSTEM]


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "becomes"),
    [
        ([USER, say("user", "v"), ASSISTANT], [say("user", "u\n\nv"), ASSISTANT]),
        ([USER, SYSTEM, say("user", "v")], [SYSTEM, say("user", "u\n\nv")]),
        (
            [USER, say("assistant", None, tool_calls=[CALL]), say("assistant", "x", tool_calls=[CALL])],
            [USER, say("assistant", "a\n\nx", tool_calls=[CALL, CALL])],
        ),
        (
            [say("assistant", "x", reasoning_content="r"), say("assistant", "y", reasoning_content="s")],
            [say("assistant", "x\n\ny", reasoning_content="r\n\ns")],
        ),
        (
            [say("user", [text("a"), {"type": "image_url", "image_url": {}}]), say("user", "b")],
            [say("user", [text("a"), {"type": "image_url", "image_url": {}}, text("\nb")])],
        ),
        ([say("tool", "1"), say("tool", "2")], [say("tool", "1"), say("tool", "2")]),
    ],
)
def test_neighbours_of_one_role_become_one_message(messages: Any, becomes: Any) -> None:  # B-C8
    assert fitting(messages, ALTERNATING) == becomes


CONTENT = st.text(max_size=3) | st.lists(st.builds(text, st.text(max_size=3)), max_size=2) | st.none()
MESSAGES = st.lists(
    st.builds(say, st.sampled_from(["system", "developer", "user", "assistant", "tool"]), CONTENT), max_size=6
)


def words(messages: Any) -> list[str]:
    contents = [message["content"] or [] for message in messages]
    parts = [[text(each)] if isinstance(each, str) else each for each in contents]
    return sorted("".join(part["text"] for each in parts for part in each).replace("\n", ""))


@given(
    messages=MESSAGES,
    roles=st.builds(Roles, late_system=st.booleans(), developer=st.booleans(), repeats=st.booleans()),
)
def test_no_text_is_lost(messages: Any, roles: Roles) -> None:
    result = fitting(messages, roles)
    given_roles = [message["role"] for message in result]
    assert sorted(words(result)) == sorted(words(messages))
    if not roles.late_system:
        assert not {"system", "developer"} & set(given_roles[1:])
    if not roles.developer:
        assert "developer" not in given_roles
    if not roles.repeats:
        assert not [one for one, other in pairwise(given_roles) if one == other and one in ("user", "assistant")]
