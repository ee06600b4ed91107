"""A real nginx in front of a router, with the lines that the README gives for it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.routers import Router
from tests.waiting import listens, until

README = Path(__file__).parents[1] / "README.md"
PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
NAME = "llm.example.org"
CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr; {user}
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen unix:{folder}/front.sock;
    {also}
    {location}
  }}
}}
"""

needed = pytest.mark.skipif(PROGRAM is None and not os.environ.get("CI"), reason="nginx is not installed")


@contextmanager
def in_front_of(router: Router, folder: Path, *, buffers: bool = False, also: str = "") -> Iterator[httpx.Client]:
    """A client of an nginx that passes everything on to the router. `buffers`: as nginx does without our
    lines, which is to speak HTTP/1.0 and to keep an answer until a buffer is full. `also` is more of the server's
    configuration."""
    assert PROGRAM, "nginx is not installed: apt-get install nginx-light"
    found = re.search(r"<!-- nginx -->\n```nginx\n(.*?)```", README.read_text(), re.S)
    assert found
    location = found[1].replace("http://127.0.0.1:8080", router.url.removesuffix(router_prefix(router)))
    for line in ("proxy_buffering off;", "proxy_http_version 1.1;") if buffers else ():
        assert line in location
        location = location.replace(line, "")
    user = "user root;" if os.getuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, location=location, user=user, also=also))
    process = subprocess.Popen([PROGRAM, "-p", folder, "-c", config, "-e", "stderr"], stdin=subprocess.DEVNULL)
    try:
        until(lambda: listens(folder / "front.sock") or process.poll() is not None)
        assert process.poll() is None, "nginx refuses the lines of the README"
        transport = httpx.HTTPTransport(uds=str(folder / "front.sock"))
        with httpx.Client(transport=transport, base_url=f"http://{NAME}", timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def address_in_front_of(router: Router, folder: Path) -> Iterator[str]:
    """The same, with an address for browsers: http://127.0.0.1:PORT."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with in_front_of(router, folder, also=f"listen 127.0.0.1:{port};"):
        yield f"http://127.0.0.1:{port}"


def router_prefix(router: Router) -> str:
    return httpx.URL(router.url).path.rstrip("/")
