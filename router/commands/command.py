"""What a command is, its exit codes, and how its words are told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from router.errors import RouterError
from router.logs import streams as logs

EXIT_CODES = """\
Exit codes: 0 success, or a server that was ended by a signal; 1 the answer is no: a preset file with problems, no
models, a model that does not fit, is not on the hub or not in the cache, a demo without an answer; 2 the command line
or a setting is wrong, and nothing was started; 130 interrupted; 143 terminated. Commands against a running router: 3 no
router answers, 4 it wants a key, 5 there is no such model, 6 not now (busy, ending, backing off), 1 it said no.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """With `takes_options`, its help ends with the options of serve. `client` is its name in `client.options`, if it
    asks a router that runs: its help ends with the flags there."""

    run: Callable[[list[str]], int]
    usage: str
    help: str
    takes_options: bool = True
    client: str = ""


def switch(name: str, argv: list[str]) -> tuple[bool, list[str]]:
    """Whether this switch is given, and the other words."""
    return name in argv, [word for word in argv if word != name]


def fail(exc: RouterError, code: int) -> int:
    """Tell the user; returns the exit code."""
    logs.say(f"llama-router: {exc}")
    return code
