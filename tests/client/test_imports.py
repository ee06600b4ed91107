"""A router that starts, and quick commands, wait for nothing that only a terminal needs."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

HEAVY = ("rich", "prompt_toolkit", "pygments", "markdown_it", "httpx", "router.client")
SEEN = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules])"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import router.commands.main, router.commands.table", []),
        ("import router.client.options, router.client.completion", ["router.client"]),
        ("import router.client.ps, router.client.logs, router.client.loading", ["httpx", "router.client"]),
        ("import router.client.talk.command", ["httpx", "router.client"]),
    ],
)
def test_what_only_a_terminal_needs_is_imported_for_a_terminal(code: str, found: list[str]) -> None:
    ended = subprocess.run([sys.executable, "-c", f"{code}; {SEEN}"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"{found}\n"


def test_a_router_does_not_import_the_commands() -> None:
    code = "import router.commands.main, router.commands.serving, router.serve"
    ended = subprocess.run([sys.executable, "-c", f"{code}; {SEEN}"], capture_output=True, text=True, check=True)
    assert not {"rich", "prompt_toolkit", "router.client"}.intersection(ast.literal_eval(ended.stdout))
