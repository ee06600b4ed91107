"""PURE: a child's errors in the words that Anthropic's clients understand.

Claude Code shortens the conversation when it reads "prompt is too long: N tokens > M maximum".
"""

from __future__ import annotations

import re

from router.errors import InvalidRequest, RouterError

# llama.cpp b11434, server-context.cpp, where it sends ERROR_TYPE_EXCEED_CONTEXT_SIZE.
_TOO_LONG = re.compile(r"request \((\d+) tokens\) exceeds the available context size \((\d+) tokens\)")
# The same error, whatever is tried: the engine says 500.
_PERMANENT = re.compile(r"(?:image|audio|video) input is not supported")


def client_error(error: RouterError) -> RouterError:
    """The error as the client gets it. What would fail again is an InvalidRequest."""
    if found := _TOO_LONG.search(error.message):
        return InvalidRequest(f"prompt is too long: {found[1]} tokens > {found[2]} maximum")
    return InvalidRequest(error.message) if _PERMANENT.search(error.message) else error
