"""PURE: a chat request as its model takes it. All wishes of clients come together here, whatever API they use.

Translations turn a request of another API into a chat request, and express what the client wants in chat's own words:

- thinking as `reasoning_effort` ("none" is off), or raw `chat_template_kwargs` (`thinking`);
- structured output as `response_format` (`schema`);
- one tool that must be called as a `tool_choice` that names it (`tools`);
- system messages wherever the client has them (`roles`);
- pictures as `image_url` parts (`media`).

Then `changed` makes of it what the model and the engine take. A request without any of this is not even parsed: what
matters of it is known from the few fields that `routing` reads, and from words in its text. `gateway` calls this.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import msgspec

from router.memory.implied_args import forbids_thinking
from router.models.spec import Info, ModelSpec
from router.models.template import TAKES_ALL, Reasoning, Roles
from router.proxy import media, roles, schema, thinking, tools
from router.proxy.body import json_object

Fields = dict[str, Any]

PATHS = frozenset({"/chat/completions", "/chat/completions/input_tokens", "/apply-template"})

_WISHES = frozenset((*thinking.WISH_FIELDS, *schema.SCHEMA_FIELDS))
# What is said to a model of which nothing is known yet: most that think have this switch.
_UNKNOWN = Reasoning("enable_thinking", None, thinking.USUAL_LEVELS)


class _Role(msgspec.Struct):
    role: Any = None


class _Roles(msgspec.Struct):
    messages: list[_Role] = []


_ROLES = msgspec.json.Decoder(_Roles)  # skips what the messages say


def changed(spec: ModelSpec, fields: Mapping[str, Any], body: bytes, all_fields: Fields | None = None) -> Fields | None:
    """All fields of the request as they are to be; None if nothing changes.

    `spec` is the model as it runs. `fields` are those that the router looks at, and `all_fields` all of them
    if the body was parsed already. Raises InvalidRequest."""
    info, before = spec.info, all_fields
    if before is None and isinstance(fields, dict) and "messages" in fields:
        before = fields  # a translation gives all of them
    if before is None:
        if not _needs_look(info, fields, body):
            return None
        before = json_object(body)
    reasoning = info.reasoning if info.architecture else _UNKNOWN
    after = thinking.with_wish(before, reasoning, may_think=not forbids_thinking(spec.args))
    after = tools.with_choice(schema.with_schema(after))
    messages = after.get("messages")
    if isinstance(messages, list):
        if info.architecture:
            media.check(messages, info.capabilities, spec.name)
        fitting = roles.fitting(messages, info.roles)
        if fitting is not messages:
            after = {**after, "messages": fitting}
    return None if after is before else after


def _needs_look(info: Info, fields: Mapping[str, Any], body: bytes) -> bool:
    """Whether all of the body must be parsed."""
    if not _WISHES.isdisjoint(fields) or tools.needs_change(fields.get("tool_choice")):
        return True
    # While the architecture is unknown, so are the capabilities: then the engine decides.
    if info.architecture and media.may_have_media(body, info.capabilities):
        return True
    return info.roles != TAKES_ALL and _may_be_refused(body, info.roles)


def _may_be_refused(body: bytes, taken: Roles) -> bool:
    """Whether the template may refuse the roles. A body that cannot be read is left to the engine."""
    if taken.repeats and body.count(b'"system"') + body.count(b'"developer"') == 0:
        return False
    try:
        given = [message.role for message in _ROLES.decode(body).messages]
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return True
    systems = [index for index, role in enumerate(given) if role in roles.SYSTEM_ROLES]
    if (not taken.late_system and systems not in ([], [0])) or (not taken.developer and "developer" in given):
        return True
    return not taken.repeats and any(one == other for one, other in pairwise(given))
