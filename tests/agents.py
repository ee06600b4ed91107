"""Claude Code and Codex, the programs themselves, without their terminals.

Each run has a home of its own. What an agent asks of other hosts than 127.0.0.1 goes to a proxy that answers nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.programs import INSTALL, MODULES, Elsewhere

PATIENCE_S = 60
PROVIDER = """
model_provider = "router"
check_for_update_on_startup = false
[model_providers.router]
name = "router"
base_url = "{url}/v1"
wire_api = "responses"
[analytics]
enabled = false
[features]
plugins = false  # it would look for some on GitHub
"""


@contextlib.contextmanager
def sealed(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of an agent, and `folder / "work"` to work in. At the end, it has asked no other host."""
    for name in ("home", "work"):
        (folder / name).mkdir()
    with Elsewhere() as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, args=(0.05,), daemon=True).start()
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), elsewhere.url)
        yield {**proxies, "no_proxy": "127.0.0.1", "PATH": os.defpath, "HOME": str(folder / "home")}
        elsewhere.shutdown()
        assert elsewhere.requests == []


def program(pattern: str) -> str:
    """The program itself, out of the package for this machine."""
    found = sorted(MODULES.glob(pattern))
    assert found, INSTALL
    return str(found[0])


def run(command: list[str], folder: Path, environ: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stdout, done.stderr
    return done.stdout


class Claude:
    """Claude Code without its terminal; `url` may be changed."""

    def __init__(self, url: str, folder: Path, environ: dict[str, str]) -> None:
        self.url, self.folder, self._environ = url, folder, environ

    def ask(self, model: str, prompt: str, *flags: str) -> dict[str, Any]:
        quiet = ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_AUTOUPDATER", "DISABLE_TELEMETRY")
        own = {"ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_AUTH_TOKEN": "none", **dict.fromkeys(quiet, "1")}
        claude = program("@anthropic-ai/claude-code-*/claude")
        command = [claude, "-p", prompt, "--model", model, "--output-format", "json", *flags]
        return dict(json.loads(run(command, self.folder, {**self._environ, **own})))


class Codex:
    """Codex without its terminal; `url` may be changed."""

    def __init__(self, url: str, folder: Path, environ: dict[str, str]) -> None:
        self.url, self.folder, self._environ = url, folder, environ

    def ask(self, model: str, prompt: str, *flags: str, resume: str = "") -> list[dict[str, Any]]:
        """Its events."""
        home = Path(self._environ["HOME"], ".codex")
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(PROVIDER.format(url=self.url))
        codex = program("@openai/codex-*/vendor/*/bin/codex")
        command = [codex, "exec", *(["resume", resume] if resume else []), "--json", "--skip-git-repo-check"]
        command += ["--model", model, "--dangerously-bypass-approvals-and-sandbox", *flags, "--", prompt]
        environ = {**self._environ, "CODEX_OSS_BASE_URL": f"{self.url}/v1"}  # for --oss
        return [json.loads(line) for line in run(command, self.folder, environ).splitlines()]


def pictures(chat: dict[str, Any]) -> int:
    """How many the engine got."""
    lists = [message["content"] for message in chat["messages"] if isinstance(message.get("content"), list)]
    return sum(part["type"] == "image_url" for parts in lists for part in parts)
