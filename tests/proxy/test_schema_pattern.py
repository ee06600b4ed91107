"""Patterns as grammars read them: what fits the new one fits the old one, and needs no escape in JSON."""

from __future__ import annotations

import json
import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.proxy.schema_pattern import MAX_CHARS, rewritten

ANY = r"[^\x22\x5C\x00-\x1F\x7F]"


@pytest.mark.parametrize(
    ("pattern", "becomes"),
    [
        (r"^\d+$", "^[0-9]+$"),
        (r"^[\w.-]+$", "^[A-Za-z0-9_.-]+$"),
        (r"^\S$", r"^[^ \x22\x5C\x00-\x1F\x7F]$"),
        ("^.$", f"^{ANY}$"),
        ("^[^@]+@$", r"^[^@\x22\x5C\x00-\x1F\x7F]+@$"),
        (r"^a\/b$", "^a/b$"),
        ("^(?:ab|c)+?$", "^(ab|c)+$"),
        ("^(?<name>a)$", "^(a)$"),
        ("^(?P<name>a)$", "^(a)$"),
        ("b", f"^{ANY}*b{ANY}*$"),
        ("^b", f"^b{ANY}*$"),
        ("a|b", f"^{ANY}*(a|b){ANY}*$"),
        ("^a{,3}$", "^a{0,3}$"),
        (r"^\u0041\x42$", "^AB$"),
        (r"^[\]\^\-a]$", r"^[\x5D\x5E\x2Da]$"),
        (r"^[\w-.]$", r"^[A-Za-z0-9_\x2D.]$"),
        ("^[a-c-e]$", "^[a-c-e]$"),
        ("^[^a-]$", r"^[^a\x2D\x22\x5C\x00-\x1F\x7F]$"),
        ("", f"^{ANY}*{ANY}*$"),
        ("^$", "^$"),
    ],
)
def test_what_grammars_can_say(pattern: str, becomes: str) -> None:  # B-C9
    assert rewritten(pattern) == becomes


@pytest.mark.parametrize(
    "pattern",
    [
        *("^a|b$", "a$b", "(?=a)b", "(?!a)b", "(?<=a)b", "(?<!a)b", r"a\b", r"(a)\1", r"\p{L}", "(?i)a", "[[:alpha:]]"),
        *(
            '^"$',
            r"^\\$",
            r"^\n$",
            "^a\n$",
            '["]',
            r"[\\]",
            "(",
            "a)",
            "[a",
            "a{2",
            "*",
            "+a",
            "a++",
            "a{x}",
            "\\",
            "[1-.]",
        ),
        *(
            "(" * 60 + ")" * 60,
            "a" * (MAX_CHARS + 1),
            "[",
            "(?",
            "(?<",
            r"\x4",
            r"\u12",
            "^^a",
            "{1}",
            "a{" + "9" * 9999,
        ),
    ],
)
def test_what_they_cannot(pattern: str) -> None:
    assert rewritten(pattern) is None


PIECES = st.sampled_from(
    ["a", "b", r"\d", r"\w", ".", "[ab]", "[^a]", "(a|b)", "(?:ab)", r"\.", "a{1,2}", "b+", "a*?", "-"]
)
TEXTS = st.text(alphabet='ab1_. -"\\\n', max_size=6)


@given(pieces=st.lists(PIECES, max_size=5), start=st.booleans(), end=st.booleans(), text=TEXTS)
def test_it_means_the_same_in_json(pieces: list[str], start: bool, end: bool, text: str) -> None:
    pattern = f"{'^' if start else ''}{''.join(pieces)}{'$' if end else ''}"
    new = rewritten(pattern)
    assert new is not None
    fits = bool(re.fullmatch(new[1:-1], text))
    needs_no_escape = json.dumps(text)[1:-1] == text
    assert fits == (needs_no_escape and bool(re.search(pattern, text)))


@given(pattern=st.text(alphabet='ab^$.|()[]{}?*+\\d-,1:<>=!"', max_size=12))
def test_nothing_breaks_it(pattern: str) -> None:
    if (new := rewritten(pattern)) is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Python may read `||` in a set otherwise one day
            re.compile(new)
