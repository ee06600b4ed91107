"""Where redirects of servers that are not the hub's may lead."""

from __future__ import annotations

import pytest

from router.hub.transfer.web import Unsafe, next_address


@pytest.mark.parametrize(
    ("url", "location", "expected"),
    [
        ("https://h/a", "/b", "https://h/b"),
        ("https://h/a", "https://cdn/b?x", "https://cdn/b?x"),
        ("http://h/a", "https://h/b", "https://h/b"),
        ("https://me:pw@h/a", "/b", "https://me:pw@h/b"),
        ("https://me:pw@h/a", "https://h:443/b", "https://me:pw@h:443/b"),
        ("https://me:pw@h/a", "https://h:8/b", "https://h:8/b"),
        ("https://me:pw@h/a", "https://evil/b", "https://evil/b"),
        ("https://me:pw@h/a", "//evil/b", "https://evil/b"),
    ],
)
def test_credentials_stay_with_their_origin(url: str, location: str, expected: str) -> None:  # B-F6 B-T7
    assert next_address(url, location) == expected


@pytest.mark.parametrize("location", ["", "http://h/a", "file:///etc/passwd", "ftp://h/x", "javascript:x"])
def test_a_redirect_never_leaves_https_nor_the_web(location: str) -> None:  # B-F6
    with pytest.raises(Unsafe):
        next_address("https://h/a", location)
