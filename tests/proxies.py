"""Real proxies in front of a router, with the files of `presets/proxies` as they are but for places: each listens on a
unix socket, with a certificate of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.routers import Router
from tests.waiting import listens, until

EXAMPLES = Path(__file__).parents[1] / "presets/proxies"
NAME = "llm.example.org"
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
Edit = Callable[[str], str]


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def nginx(example: str, folder: Path, address: str) -> tuple[str, list[str]]:
    """The file for nginx, and its command line."""
    server = replaced(
        example,
        ("listen 443 ssl", f"listen unix:{folder}/front.sock ssl"),
        (f"/etc/ssl/{NAME}.pem", f"{folder}/cert.pem"),
        (f"/etc/ssl/{NAME}.key", f"{folder}/key.pem"),
        ("http://127.0.0.1:8080", f"http://{address}"),
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    user = "user root;" if os.getuid() == 0 else ""
    text = f"daemon off; pid {folder}/pid; {user}\nevents {{}}\nhttp {{\naccess_log off;\n{places}{server}}}\n"
    return text, ["-p", str(folder), "-c", f"{folder}/config", "-e", "stderr"]


def caddy(example: str, folder: Path, address: str) -> tuple[str, list[str]]:
    """The file for Caddy, and its command line."""
    site = replaced(
        example,
        (f"\n{NAME} {{\n", f"\n{NAME} {{\n\tbind unix/{folder}/front.sock\n\ttls {folder}/cert.pem {folder}/key.pem\n"),
        ("127.0.0.1:8080\n}", f"{address}\n}}"),
    )
    text = f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}}\n{site}"
    return text, ["run", "--adapter", "caddyfile", "--config", f"{folder}/config"]


FILES = {"nginx": "nginx.conf", "caddy": "Caddyfile"}
MAKERS = {"nginx": nginx, "caddy": caddy}


@contextmanager
def in_front_of(router: Router, kind: str, folder: Path, edit: Edit = str) -> Iterator[httpx.Client]:
    """A client of a proxy that passes everything on to the router. `edit` changes the example before it is used."""
    program = shutil.which(kind, path=SEARCH)
    if program is None:
        assert not os.environ.get("CI"), f"{kind} is not installed"
        pytest.skip(f"{kind} is not installed")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={NAME}", "-days", "2"]
    words += ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run(words, capture_output=True, check=True)
    address = httpx.URL(router.url).netloc.decode()
    text, flags = MAKERS[kind](edit((EXAMPLES / FILES[kind]).read_text()), folder, address)
    (folder / "config").write_text(text)
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **home}
        )
    try:
        until(lambda: listens(folder / "front.sock") or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        transport = httpx.HTTPTransport(uds=str(folder / "front.sock"), verify=False)
        with httpx.Client(transport=transport, base_url=f"https://{NAME}", timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(10)
