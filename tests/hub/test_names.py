"""What is a name on the hub, and what is refused."""

from __future__ import annotations

import pytest

from router.errors import InvalidRequest
from router.hub.names import Name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("user/repo", Name("user/repo")),
        ("user/repo:Q4_K_M", Name("user/repo", "Q4_K_M")),
        ("u-s.er/re.po_1:UD-Q4_K_XL@v1.0", Name("u-s.er/re.po_1", "UD-Q4_K_XL", "v1.0")),
        ("user/repo@refs/pr/1", Name("user/repo", None, "refs/pr/1")),
        ("user/repo:f16@main", Name("user/repo", "f16")),
        (f"{'u' * 96}/{'r' * 96}", Name(f"{'u' * 96}/{'r' * 96}")),
    ],
)
def test_names_are_parsed(text: str, name: Name) -> None:  # B-H1
    assert Name.parse(text) == name
    assert Name.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "a/", "/a", "a/b/c", "../x", "a/..", "a/../b", "..%2f/b", "a/.b", "a--b/c", "-a/b", "a/b.", "ä/b"),
        *("https://huggingface.co/a/b", "a/b:", "a/b:../c", "a/b:*", "a/b:c/d", "a/b@", "a/b@../c", "a/b@a/../b"),
        *("a/b@/c", "a/b@c/", "a/b\n", "a/b\0", "a\x1b/b", "a b/c", "a\\b/c", "a/b:c:d", "a/b@c:d", "C:/b"),
        *(f"{'u' * 97}/r", f"u/{'r' * 97}", f"u/r:{'q' * 97}", f"u/r@{'v' * 97}", "a/b" * 5000),
    ],
)
def test_other_text_is_refused_with_the_right_form(text: str) -> None:  # B-H2
    with pytest.raises(InvalidRequest, match="write user/repo, user/repo:QUANT") as refused:
        Name.parse(text)
    assert len(refused.value.message) < 400
    assert refused.value.message.isprintable()
