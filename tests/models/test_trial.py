"""What templates refuse and leave out; and a hostile template costs no more than its share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.parser import Parser

from router.models.template import _SYNTAX, TAKES_ALL, Roles, analyse
from router.models.trial import MAX_STEPS, Trial

SAY = "{{ m.role }}:{{ m.content }};"
REFUSE = "{{ raise_exception('no') }}"
EACH = "{% for m in messages %}%s{% endfor %}"


def each(body: str) -> str:
    return EACH.replace("%s", body)


FIRST_ONLY = each("{% if m.role == 'system' and not loop.first %}" + REFUSE + "{% endif %}" + SAY)
KNOWN_ROLES = each(
    "{% set text = render(m.content, true) | trim %}{% if m.role == 'system' %}{% if not loop.first %}"
    + REFUSE
    + "{% endif %}{{ text }}{% elif m.role == 'user' %}{{ text }}{% elif m.role == 'assistant' %}{{ text }}"
    + "{% else %}"
    + REFUSE
    + "{% endif %}"
)
COUNTED = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}"
    "{% set users = rest | selectattr('role', 'equalto', 'user') | list %}{% set ns = namespace() %}"
    "{% set ns.index = 0 %}{% for m in rest %}{% if not (m.role == 'tool' or (m.tool_calls is defined and "
    "m.tool_calls is not none)) %}{% if (m['role'] == 'user') != (ns.index % 2 == 0) %}" + REFUSE + "{% endif %}"
    "{% set ns.index = ns.index + 1 %}{% endif %}{% endfor %}{% for m in rest %}"
    "{% if m['role'] == 'user' %}{% if tools is not none and m == users[-1] %}{{ tools }}{% endif %}"
    "{% if loop.last and system is defined %}{{ system + m['content'] }}{% else %}{{ m['content'] }}{% endif %}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}"
    + REFUSE
    + "{% endif %}"
    + each("{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}" + REFUSE + "{% endif %}{{ m['content'] | trim }}")
)
LOST = (
    "{% if messages[0].role in ['developer', 'system'] %}{% set first = messages[0].content %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{{ first }}"
    "{% for m in rest %}{% if m.role == 'assistant' %}{{ m.content }}{% elif m.role == 'user' %}{{ m.content }}"
    "{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("text", "roles"),
    [
        (each(SAY), TAKES_ALL),
        (FIRST_ONLY, Roles(late_system=False)),
        (KNOWN_ROLES, Roles(late_system=False, developer=False)),
        (COUNTED, Roles(late_system=False, developer=False, repeats=False)),
        (NO_SYSTEM, Roles(late_system=False, developer=False, repeats=False)),
        (LOST, Roles(late_system=False)),
        ("{{ messages | tojson }}", TAKES_ALL),
        (each("{{ turn(m) }}"), TAKES_ALL),
        (each("{% if loop.previtem and loop.previtem.role == m.role %}" + REFUSE + "{% endif %}" + SAY), None),
        (each("{% if m.get('role') == 'system' and loop.index > 1 %}" + REFUSE + "{% endif %}" + SAY), None),
        ("{% set n = messages | rejectattr('role', 'in', ['user', 'assistant']) | list | length %}"
         "{% if n > 1 %}" + REFUSE + "{% endif %}" + each(SAY), None),
        ("{% for m in messages if m.role != 'system' %}" + SAY + "{% endfor %}{{ messages[0].content }}", None),
        (each("{% if not loop.first %}{% if m.role == 'system' %}{% continue %}{% endif %}{% endif %}" + SAY), None),
    ],
)  # fmt: skip
def test_what_a_template_refuses_is_found(text: str, roles: Roles | None) -> None:  # B-C8
    found = analyse(text).roles
    assert found == roles if roles is not None else found != TAKES_ALL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{{ bos_token }}",
        REFUSE,  # it takes nothing at all, so it is not understood
        each("{% if m.role == 'system' and not loop.first %}{% if wild() %}" + REFUSE + "{% endif %}{% endif %}" + SAY),
        each("{% if enable_thinking and not loop.first and m.role == 'system' %}" + REFUSE + "{% endif %}" + SAY),
        each("{% set ns = namespace(seen=wild()) %}{% if ns.seen %}" + REFUSE + "{% endif %}" + SAY),
        each("{{ (raise_exception('no') if wild() else m.content) }}"),
        each("{% for x in wild() %}" + REFUSE + "{% endfor %}" + SAY),
        each("{% macro bad() %}" + REFUSE + "{% endmacro %}" + SAY),
    ],
)  # fmt: skip
def test_what_may_or_may_not_be_an_error_is_none(text: str) -> None:
    assert analyse(text).roles == TAKES_ALL


def trial(text: str, *roles: str) -> Trial:
    return Trial(Parser(_SYNTAX, text).parse(), roles)


def test_what_is_read_and_what_is_left_out() -> None:
    lost = trial(LOST, "system", "user", "system")
    assert (lost.is_refused, lost.read) == (False, {0, 1})
    assert repr(lost) == "<Trial of system, user, system: taken, reads [0, 1]>"
    assert trial("{% if wild() %}{{ messages[0].content }}{% endif %}", "user").read == {0}
    assert trial("{{ messages[::-1][0]['content'] }}", "user", "assistant").read == {1}


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(200) %}{% for b in range(200) %}{% for c in range(200) %}{{ a }}{% endfor %}{% endfor %}"
        "{% endfor %}",
        "{% set a = 'aaaaaaaa' %}" + "{% set a = a ~ a %}" * 2000 + "{{ a }}",
        "{% set a = [1] %}" + "{% set a = a + a %}" * 2000 + "{{ a }}",
        "{% set a = 9 %}" + "{% set a = a * a %}" * 2000 + "{{ a }}",
        "{{ " + "not " * 100 + "1 }}",
        "{{ 1 % 0 }}{{ 1 // 0 }}{{ messages[::0] }}{{ range(1, 5, 0) }}",
        "{% if wild() %}" * 30 + "{% set a = 1 %}" + "{% endif %}" * 30,
    ],
)
def test_a_hostile_template_ends_its_trial(text: str) -> None:
    found = trial(text, "user", "assistant")
    assert not found.is_refused
    assert found._steps <= MAX_STEPS + 1


PIECES = st.sampled_from(
    [
        SAY,
        REFUSE,
        "{% if m.role == 'system' %}",
        "{% if loop.first %}",
        "{% elif m.role in ['user'] %}",
        "{% else %}",
        "{% endif %}",
        "{% for m in messages[1:] %}",
        "{% endfor %}",
        "{% set ns = namespace(i=0) %}",
        "{% set ns.i = ns.i + loop.index0 %}",
        "{% if ns.i % 2 == 1 %}",
        "{% break %}",
        "{% set a, b = m, loop %}",
        "{{ m.content[1:] | upper | default('x', true) }}",
        "{% set x %}{{ m }}{% endset %}",
        "{{ 'a' in m }}{{ m is mapping }}{{ -1 }}{{ not ns.i > 3 }}",
    ]
)


@given(pieces=st.lists(PIECES, max_size=14))
def test_any_template_has_an_answer(pieces: list[str]) -> None:
    assert isinstance(analyse(each("".join(pieces))).roles, Roles)
