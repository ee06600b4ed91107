"""PURE: a chat request as its model takes it. All wishes of clients come together here, whatever API they use.

Translations turn a request of another API into a chat request, and express what the client wants in chat's own words:

- thinking as `reasoning_effort` ("none" is off), or raw `chat_template_kwargs` (`thinking`);
- structured output as `response_format` (`schema`);
- one tool that must be called as a `tool_choice` that names it (`tools`);
- system messages wherever the client has them (`roles`);
- pictures as `image_url` parts (`media`).

Then `changed` makes of it what the model and the engine take. A request without any of this is not even parsed: what
matters of it is known from the few fields that `routing` reads. `gateway` calls this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.memory.implied_args import forbids_thinking
from router.models.spec import Info, ModelSpec
from router.models.template import TAKES_ALL, Reasoning
from router.proxy import media, roles, schema, thinking, tools
from router.proxy.body import json_object
from router.proxy.routing import MESSAGES, Outline

Fields = dict[str, Any]

PATHS = frozenset({"/chat/completions", "/chat/completions/input_tokens", "/apply-template"})

_WISHES = frozenset((*thinking.WISH_FIELDS, *schema.SCHEMA_FIELDS))
# What is said to a model of which nothing is known yet: most that think have this switch.
_UNKNOWN = Reasoning("enable_thinking", None, thinking.USUAL_LEVELS)


def changed(
    spec: ModelSpec, fields: Fields, body: bytes, outline: Outline | None = None, *, has_all: bool = False
) -> Fields | None:
    """All fields of the request as they are to be; None if nothing changes.

    `spec` is the model as it runs. `fields` are those that the router looks at, and `outline` tells about the messages.
    If `has_all` or if `messages` are among them, they are all fields of the request. Raises InvalidRequest."""
    info, before = spec.info, fields
    if not has_all and MESSAGES not in fields:
        if not needs_look(info, fields, outline or []):
            return None
        before = json_object(body)
    reasoning = info.reasoning if info.architecture else _UNKNOWN
    after = thinking.with_wish(before, reasoning, may_think=not forbids_thinking(spec.args))
    after = tools.with_choice(schema.with_schema(after))
    messages = after.get(MESSAGES)
    if isinstance(messages, list):
        if info.architecture:
            media.check(messages, info.capabilities, spec.name)
        fitting = roles.fitting(messages, info.roles)
        if fitting is not messages:
            after = {**after, MESSAGES: fitting}
    return None if after is before else after


def needs_look(info: Info, fields: Mapping[str, Any], outline: Outline) -> bool:
    """Whether all of the body must be parsed."""
    if not _WISHES.isdisjoint(fields) or tools.needs_change(fields.get("tool_choice")):
        return True
    # While the architecture is unknown, so are the capabilities: then the engine decides.
    if info.architecture and any(media.may_have_media(each.content, info.capabilities) for each in outline):
        return True
    is_choosy = info.roles is not TAKES_ALL and info.roles != TAKES_ALL
    return is_choosy and not roles.are_taken([each.role for each in outline], info.roles)


def with_native_schema(fields: Fields) -> Fields:
    """A request of the engine's own API, with its schema in words that the engine enforces. Raises InvalidField."""
    return schema.with_native_schema(fields)


def lost_words(fields: Mapping[str, Any]) -> list[str]:
    """What of the schema of any request the engine does not enforce."""
    return schema.lost_words(fields)
