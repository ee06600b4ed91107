"""What is a name on the hub, and what is refused."""

from __future__ import annotations

import pytest

from router.errors import InvalidRequest
from router.hub.names import Name, canonical, ollama_library_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("user/repo", Name("user/repo")),
        ("user/repo:Q4_K_M", Name("user/repo", "Q4_K_M")),
        ("u-s.er/re.po_1:UD-Q4_K_XL@v1.0", Name("u-s.er/re.po_1", "UD-Q4_K_XL", "v1.0")),
        ("user/repo@refs/pr/1", Name("user/repo", None, "refs/pr/1")),
        ("user/repo:f16@main", Name("user/repo", "f16")),
        (f"{'u' * 96}/{'r' * 96}", Name(f"{'u' * 96}/{'r' * 96}")),
        ("hf.co/user/repo:Q8_0", Name("user/repo", "Q8_0")),
        ("HF.co/user/repo", Name("user/repo")),
        ("huggingface.co/user/repo@v1", Name("user/repo", None, "v1")),
        ("https://hf.co/user/repo:Q8_0", Name("user/repo", "Q8_0")),
        ("https://huggingface.co/user/repo/", Name("user/repo")),
        ("http://www.huggingface.co/user/repo", Name("user/repo")),
        ("user/repo:latest", Name("user/repo")),
    ],
)
def test_names_are_parsed(text: str, name: Name) -> None:  # B-H1
    assert Name.parse(text) == name
    assert Name.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "a/", "/a", "a/b/c", "../x", "a/..", "a/../b", "..%2f/b", "a/.b", "a--b/c", "-a/b", "a/b.", "ä/b"),
        *("https://example.com/a/b", "a/b:", "a/b:../c", "a/b:*", "a/b:c/d", "a/b@", "a/b@../c", "a/b@a/../b"),
        *("a/b@/c", "a/b@c/", "a/b\n", "a/b\0", "a\x1b/b", "a b/c", "a\\b/c", "a/b:c:d", "a/b@c:d", "C:/b"),
        *("hf.co/a", "hf.co/../a/b", "hf.co/hf.co/a/b", "hf.co//a/b", "https://hf.co/a/b/../c", "ftp://hf.co/a/b"),
        *("https://hf.co@example.com/a/b", "https://hf.co.example.com/a/b", "https://hf.co/a/b?x", "file:///a/b"),
        *(f"{'u' * 97}/r", f"u/{'r' * 97}", f"u/r:{'q' * 97}", f"u/r@{'v' * 97}", "a/b" * 5000),
    ],
)
def test_other_text_is_refused_with_the_right_form(text: str) -> None:  # B-H2
    with pytest.raises(InvalidRequest, match="write user/repo, user/repo:QUANT") as refused:
        Name.parse(text)
    assert len(refused.value.message) < 400
    assert refused.value.message.isprintable()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("user/repo:UD-Q4_K_XL", "user/repo:Q4_K_XL"),
        ("user/repo:q4_k_xl", "user/repo:Q4_K_XL"),
        ("hf.co/user/repo:i1-q4_K_m@v1", "user/repo:Q4_K_M@v1"),
        ("https://huggingface.co/User/repo", "User/repo"),
        ("qwen3:8b", "qwen3:8b"),
        ("user/../x:UD-Q4", "user/../x:UD-Q4"),
        ("a model", "a model"),
    ],
)
def test_a_name_is_written_as_the_cache_lists_it(text: str, name: str) -> None:  # B-H6
    assert canonical(text) == name
    assert canonical(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("llama3.2", "llama3.2"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("library/llama3.2", "llama3.2"),
        ("registry.ollama.ai/library/llama3.2:1b", "llama3.2:1b"),
        ("https://ollama.com/library/llama3.2", "llama3.2"),
        ("user/repo", None),
        ("../x", None),
        ("", None),
    ],
)
def test_names_of_ollamas_library(text: str, name: str | None) -> None:
    assert ollama_library_name(text) == name


def test_a_name_of_ollamas_library_is_refused_with_a_place_to_look() -> None:
    with pytest.raises(InvalidRequest, match=r"search=llama3\.2 lists repositories"):
        Name.parse("llama3.2:1b")
