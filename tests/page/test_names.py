from __future__ import annotations

import re

import pytest

from router.page import names


@pytest.mark.parametrize("name", ["index.html", "_app/immutable/bundle.x-Y_1.js", "favicon.ico", "a/b/c.woff2"])
def test_names_of_files(name: str) -> None:
    assert names.is_valid(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "x", "x.exe", "x.php", "/x.js", "../x.js", "a/../x.js", "a//x.js", "./x.js", ".x.js", "a/.x/y.js"),
        *("v1/x.json", "models/x.js", "api/x.js", "router/x.js", "a\\x.js", "x.js\n", "ä.js", "a%2fx.js", "x.js?y"),
        *("a/" * 9 + "x.js", "x" * 200 + ".js"),
    ],
)
def test_names_that_lead_elsewhere(name: str) -> None:
    assert not names.is_valid(name)


def test_every_valid_name_has_the_route() -> None:
    assert all(re.fullmatch(names.PATTERN, name) for name in names.WELL_KNOWN)


def test_files_that_are_named_in_a_file() -> None:
    html = """<link href="./_app/immutable/x.Ab1.css"><script>import("./_app/immutable/x.js")</script>
    <img src=pictures/a.png> <a href="https://elsewhere.example/evil.js"> <a href="../../etc/passwd.txt">"""
    assert [*names.named_in("index.html", html)] == [
        "_app/immutable/x.Ab1.css",
        "_app/immutable/x.js",
        "pictures/a.png",
    ]
    worker = 'define(["./workbox-b3c0"],function(e){e.precacheAndRoute([{url:"./"},{url:"pwa.png"}])})'
    assert [*names.named_in("sw.js", worker)] == ["pwa.png", "workbox-b3c0.js"]


def test_names_are_relative_to_their_file_or_to_the_page() -> None:
    found = names.named_in("_app/chunks/a.js", 'import"../nodes/b.js";import"./c.js";x("_app/d.css")')
    assert {"_app/nodes/b.js", "_app/chunks/c.js", "_app/d.css"} <= set(found)


def test_a_long_file_is_searched_to_its_end() -> None:
    filler = ";" * (names._SLICE - 9)
    assert [*names.named_in("a.js", f'{filler}"across-the-border.png"{filler}"last.png"')] == [
        "across-the-border.png",
        "last.png",
    ]
