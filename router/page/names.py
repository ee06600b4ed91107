"""PURE: what the files of a page may be called, and which other files a file of the page names.

A name comes from an engine or from a file on disk, so it is never used before it was checked: plain words, a known
ending, nothing that leads out of a folder or to another route of the router. Called by `source` and `shelf`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

INDEX = "index.html"
MAX_NAME_CHARACTERS = 160

# By ending. The router says what a file is: a page must not be able to call a picture a script.
TYPES = {
    "css": "text/css; charset=utf-8",
    "gif": "image/gif",
    "html": "text/html; charset=utf-8",
    "ico": "image/x-icon",
    "jpg": "image/jpeg",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "mjs": "text/javascript; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
    "wasm": "application/wasm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
}
TEXTS = frozenset({"css", "html", "js", "json", "mjs", "webmanifest"})  # those that may name other files

# What stands first in paths of the router's own, which a file of a page must not take.
RESERVED = ("api", "chat", "completions", "infill", "models", "responses", "router", "slots", "v1")
# As a regular expression for a route: it matches the same names as `is_valid`, and may match a few more.
_WORD, _ENDING = "[A-Za-z0-9_-][A-Za-z0-9._-]*", f"(?:{'|'.join(TYPES)})"
PATTERN = rf"(?!(?:{'|'.join(RESERVED)})/)(?:{_WORD}/){{0,6}}{_WORD}\.{_ENDING}"
_NAME = re.compile(PATTERN, re.ASCII)

# Asked for without being named by another file: they are fetched by scripts that put their names together.
WELL_KNOWN = (INDEX, "sw.js", "manifest.webmanifest", "build.json", "_app/version.json", "favicon.ico", "favicon.svg")

_QUOTED = re.compile(
    rf"""["'`(=]((?:\.{{0,2}}/)?[\w./-]{{1,{MAX_NAME_CHARACTERS}}}\.(?:{"|".join(TYPES)}))["'`)\s>?]"""
)
_MODULE = re.compile(r"""["'](\./[\w/-]{1,100})["']""")  # a service worker names its modules without their ending
_SLICE = 1 << 18  # characters: a search through more would keep all other threads waiting


def ending_of(name: str) -> str:
    return name.rpartition(".")[2]


def is_valid(name: str) -> bool:
    return len(name) <= MAX_NAME_CHARACTERS and _NAME.fullmatch(name) is not None


def is_immutable(name: str) -> bool:
    """Its name changes with its content, so that browsers may keep it for ever."""
    return name.startswith("_app/immutable/")


def named_in(name: str, text: str) -> Iterator[str]:
    """The files that a file of the page may need, each with a valid name; some of them may not exist.

    A name is read as relative to the file, and as relative to the page: bundlers write both."""
    seen: set[str] = set()
    for found in _words(name, text):
        path = urlsplit(found).path
        for base in ("", posixpath.dirname(name)):
            whole = posixpath.normpath(posixpath.join(base, path.lstrip("/") if base == "" else path)).lstrip("/")
            if whole not in seen and is_valid(whole):
                seen.add(whole)
                yield whole


def _words(name: str, text: str) -> Iterator[str]:
    for start in range(0, len(text), _SLICE):
        part = text[start : start + _SLICE + 2 * MAX_NAME_CHARACTERS]
        yield from (found[1] for found in _QUOTED.finditer(part))
    if posixpath.dirname(name) == "" and name.endswith(".js") and len(text) <= _SLICE:
        yield from (f"{found[1]}.js" for found in _MODULE.finditer(text))
