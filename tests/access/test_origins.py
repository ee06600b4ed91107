"""Which origins are listed, and what their pages may do. B-C14"""

from __future__ import annotations

import re

import pytest

from router.access.origins import AllowedOrigins
from router.access.permissions import ADMIN, GENERATE, Permission
from router.options import ORIGINS
from tests.access.guards import FOREIGN

ALLOWED: dict[tuple[str, ...], dict[str, Permission | None]] = {
    ("localhost",): {
        "http://localhost": ADMIN,
        "http://localhost:3000": ADMIN,
        "https://127.0.0.1:8443": ADMIN,
        "http://[::1]:3000": ADMIN,
        "http://localhost.evil.com": None,
        "http://localhost:80:80": None,
        "http://localhost:": None,
        "http://user@localhost": None,
        "http://localhost/": None,
        "ftp://localhost": None,
        "localhost": None,
        "http://": None,
        "": None,
        "null": None,
        "http://localhost, http://localhost": None,
        "app://obsidian.md": GENERATE,
        "file://": GENERATE,
        "tauri://localhost": GENERATE,
        "vscode-webview://0tq7kl3u0f9": GENERATE,
        "vscode-file://vscode-app": GENERATE,
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop": GENERATE,
        "moz-extension://7a5f0b1c-93b2-4c6b-8d0e-0123456789ab": GENERATE,
        "safari-web-extension://7A5F0B1C-93B2-4C6B-8D0E-0123456789AB": GENERATE,
        "app://evil.com/x": None,
        "app://user@x": None,
        "xapp://x": None,
        "chrome-extension:": None,
    },
    (): {"http://localhost:3000": None, "app://obsidian.md": None},
    ("*",): {
        FOREIGN: ADMIN,
        "http://[2001:db8::1]:1": ADMIN,
        "app://x": ADMIN,
        "null": None,
        "https://": None,
        "x": None,
    },
    ("*", "null"): {"null": ADMIN},
    ("https://*.example.com",): {
        "https://a.example.com": ADMIN,
        "https://a.b.example.com": ADMIN,
        "HTTPS://A.Example.com": ADMIN,
        "https://a.example.com:443": ADMIN,
        "https://example.com": None,
        "https://.example.com": None,
        "https://evilexample.com": None,
        "https://example.com.evil.com": None,
        "https://a.example.com.evil.com": None,
        "https://evil.com#.example.com": None,
        "https://evil.com/.example.com": None,
        "https://evil.com?.example.com": None,
        "https://evil.com@a.example.com": None,
        "https://evil.com\\.example.com": None,
        "https://evil.com:1.example.com": None,
        "https://evil.com\n.example.com": None,
        "https://evil.com\t.example.com": None,
        "https://a.example.com:8443": None,
        "https://axexample.com": None,
        "http://a.example.com": None,
        "null": None,
    },
    ("http://192.168.1.*:*",): {
        "http://192.168.1.7": ADMIN,
        "http://192.168.1.7:3000": ADMIN,
        "http://192.168.1.evil.com": None,
        "http://192.168.1.7.evil.com": None,
        "http://192.168.1.evil": None,
        "http://192.168.11.7": None,
        "https://192.168.1.7": None,
    },
    ("http://192.168.*",): {"http://192.168.1.7": ADMIN, "http://192.168.evil.com": None, "http://192.168.1.7:1": None},
    ("https://api-*.example.com:8*",): {
        "https://api-1.example.com:8443": ADMIN,
        "https://api-1.example.com": None,
        "https://api-1.evil.com.example.com:8443": None,
    },
    ("http://*:8080",): {"http://any.thing:8080": ADMIN, "http://[fe80::1]:8080": ADMIN, "http://any.thing": None},
    ("http://[fe80::*]:*",): {"http://[fe80::1:2]:8080": ADMIN, "http://[fd00::1]": None},
    ("https://example.com/", "https://other.example:443"): {
        "https://example.com": ADMIN,
        "https://other.example": ADMIN,
        "https://example.com.": None,
        "https://sub.example.com": None,
    },
    ("app://mine",): {"app://mine": ADMIN, "app://other": GENERATE},
}


@pytest.mark.parametrize("listed", ALLOWED, ids=str)
def test_origins(listed: tuple[str, ...]) -> None:
    origins = AllowedOrigins(ORIGINS.read(",".join(listed)))
    assert {origin: origins.permission(origin) for origin in ALLOWED[listed]} == ALLOWED[listed]


@pytest.mark.parametrize("word", ["example.com", "https://", "https://*/x", "https://a b", "https://a@b", "//x", "*.x"])
def test_invalid_origin_cannot_be_listed(word: str) -> None:
    with pytest.raises(ValueError, match=re.escape(word)):
        ORIGINS.read(word)
