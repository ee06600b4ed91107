"""Running `transfer`, the child program that speaks to the hub, and speaking with it.

The one idea: a transfer that hangs is a process that can be killed, and neither the memory nor the imports of
huggingface_hub come into the process that serves. Called by `resolve` (to list a repository) and `fetch` (to download).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any

from router.errors import Forbidden, HubUnavailable, InsufficientDisk, RouterError, UnknownModel, UpstreamFailed
from router.hub.endpoint import address
from router.redaction import redactor, secrets_of

SHOWN_BYTES = 4096  # of what the child wrote to stderr
SHOWN_CHARACTERS = 300  # of its last line
Message = Mapping[str, Any]

# The errors that the child reports by name (`transfer.failures.explain`). Any other name is a RouterError.
ERRORS: Mapping[str, type[RouterError]] = {
    "Forbidden": Forbidden,
    "HubUnavailable": HubUnavailable,
    "InsufficientDisk": InsufficientDisk,
    "UnknownModel": UnknownModel,
    "UpstreamFailed": UpstreamFailed,
}


async def transfer(request: Message, token: str | None, on_message: Callable[[Message], object]) -> None:
    """Run one request (see `transfer`) in a child. `on_message` gets the child's answers, in the event loop.

    The child is gone when this returns, also when this is cancelled. Raises the error that the child reports, and
    RouterError if the child cannot be started or dies.
    """
    loop = asyncio.get_running_loop()
    answers: asyncio.Queue[bytes | int] = asyncio.Queue()
    errors = _scratch()
    child = _start(token, errors)

    def hand_over(answer: bytes | int) -> None:
        loop.call_soon_threadsafe(answers.put_nowait, answer)

    threading.Thread(target=_converse, args=(child, request, hand_over), name=f"fetch-{child.pid}", daemon=True).start()
    answer: bytes | int = b""
    try:
        while isinstance(answer := await answers.get(), bytes):
            message = json.loads(answer)
            if "error" in message:
                error = ERRORS.get(message["error"], RouterError)
                raise error(message["message"], retry_after=message["retry_after"])
            on_message(message)
        if answer:
            hide = redactor((*secrets_of(os.environ), *([token] if token else [])))
            raise RouterError(
                f"the process that fetches {request['repo']} ended by itself: {hide(_why(answer, errors))}"
            )
    finally:
        child.kill()
        try:
            while isinstance(answer, bytes):  # until the exit code: then the child is reaped and its pipes are closed
                answer = await answers.get()
        finally:
            errors.close()


def _scratch() -> IO[bytes]:
    """A file for what the child writes to stderr: a pipe that nobody reads could fill up."""
    try:
        return tempfile.TemporaryFile()
    except OSError:  # no room for temporary files: then nothing is told
        return open(os.devnull, "w+b")


def _why(code: int, errors: IO[bytes]) -> str:
    """Why the child has ended, from its exit code and from what it wrote to stderr."""
    if code < 0:
        hint = ", as the kernel does when memory is short: free some" if code == -signal.SIGKILL else ""
        return f"it was killed by signal {-code}{hint}, and try again"
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - SHOWN_BYTES))
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    last = "".join(char if char.isprintable() else "?" for char in lines[-1])[:SHOWN_CHARACTERS] if lines else ""
    if found := re.match(r"ModuleNotFoundError: No module named '([\w-]+)", last):
        return f"the package {found[1]} is missing: {sys.executable} -m pip install {found[1]}"
    if "ImportError" in last or "SyntaxError" in last:
        return f"its packages do not work ({last}): {sys.executable} -m pip install --force-reinstall huggingface_hub"
    if "MemoryError" in last:
        return "memory is short: free some, and try again"
    return f"exit code {code}{f' ({last})' if last else ''}: try again"


def _converse(child: subprocess.Popen[bytes], request: Message, hand_over: Callable[[bytes | int], object]) -> None:
    """Runs in a thread of its own: hands over each whole line, and at last the exit code."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the caller
        with contextlib.suppress(BrokenPipeError), child:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            for line in child.stdout:
                if line.endswith(b"\n"):
                    hand_over(line)
        hand_over(child.wait())


def _start(token: str | None, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    # An empty or blank value means "not set". huggingface_hub takes it for an address, or for a token.
    inherited = {name: value for name, value in os.environ.items() if value.strip() or not name.startswith("HF_")}
    env = inherited | quiet | {"HF_ENDPOINT": address(os.environ)} | ({"HF_TOKEN": token} if token else {})
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "router.hub.transfer"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    except OSError as error:
        raise RouterError(f"{sys.executable} cannot be started ({error.strerror})") from error
