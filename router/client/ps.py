"""`ps`: which models run, on what memory, with how many requests, and who waits for what."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from router.client import options, screen, target
from router.client.screen import Column, Table
from router.client.session import Session
from router.client.state import Device, Model, State, duration, memory, requests, waiting_line
from router.errors import RouterError
from router.logs.letters import visible
from router.units import size

PATH = "/router/state"
EVERY_S = 1.0
TIMEOUT_S = 10.0

COLOURS = {"loaded": "green", "loading": "yellow", "downloading": "yellow", "failed": "red", "stopping": "magenta"}


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    words = options.read("ps", argv, most=0)
    shows_all, as_json = words.has("--all"), words.has("--json")
    if words.has("--watch"):
        _watch(lambda: Session(target.find(words, environ), TIMEOUT_S), shows_all=shows_all, as_json=as_json)
        return 0
    with Session(target.find(words, environ), TIMEOUT_S) as session:
        fields = session.json("GET", PATH)
        if as_json:
            screen.print_json(fields)
        elif screen.is_terminal(sys.stdout):
            terminal = screen.console(sys.stdout)
            for part in drawn(State.read(fields), shows_all, terminal.width):
                terminal.print(part)
        else:
            print("\n".join(plain(State.read(fields), shows_all)))
    return 0


def table(state: State, shows_all: bool) -> Table:
    columns = (
        Column("MODEL"),
        Column("STATE", style=_colour),
        Column("MEMORY", 4),
        Column("CONTEXT", 6, is_number=True),
        Column("REQUESTS", 1),
        Column("TTL", 5, is_number=True),
        Column("PID", 7, is_number=True),
        Column("TOKENS/S", 3, is_number=True),
    )
    return Table(columns, [_row(model) for model in state.models if shows_all or _is_of_interest(model)])


def plain(state: State, shows_all: bool = False) -> list[str]:
    found = table(state, shows_all)
    lines = found.lines() if found.rows else ["no model runs"]
    return [*lines, *map(visible, _notes(state))]


def drawn(state: State, shows_all: bool, room: int) -> Iterator[Any]:
    """The same for a window of this width, as rich draws it."""
    from rich.text import Text

    found = table(state, shows_all)
    yield screen.styled(found, room) if found.rows else Text("no model runs", "dim")
    for line in _notes(state):
        yield Text(screen.cut(visible(line), room), "dim")


def _is_of_interest(model: Model) -> bool:
    return model.is_running or model.waiting > 0 or bool(model.retry_in)


def _row(model: Model) -> list[str]:
    ttl = "pinned" if model.is_pinned else duration(model.expires_in)
    return [
        model.name,
        model.words,
        memory(model.held),
        str(model.context or "-"),
        requests(model),
        ttl,
        str(model.pid or "-"),
        f"{model.speed:.1f}" if model.speed else "-",
    ]


def _colour(cell: str) -> str:
    return next((colour for word, colour in COLOURS.items() if cell.startswith(word)), "")


def _notes(state: State) -> Iterator[str]:
    """What waits and why, what failed and why, and the memory."""
    yield ""
    yield from map(waiting_line, state.queue)
    yield from (f"{model.name}: {model.error}" for model in state.models if model.error and model.retry_in)
    yield ", ".join(map(_memory_line, state.devices)) or "no device"
    speed = f", {state.speed:.1f} tokens/s" if state.speed else ""
    yield f"{state.running} running, {state.waiting} waiting{speed}"


def _memory_line(device: Device) -> str:
    return f"{device.label} {size(device.free)} of {size(device.total)} free"


def _watch(find: Callable[[], Session], *, shows_all: bool, as_json: bool) -> None:
    """Until the user ends it. A router that goes away is waited for; one that never was is an error."""
    states = _states(find)
    first = next(states)
    if as_json or not screen.is_terminal(sys.stdout):
        before: object = None
        for fields in itertools.chain([first], states):
            shown = fields.message if isinstance(fields, RouterError) else fields
            if shown == before:
                continue
            before = shown
            if isinstance(fields, RouterError):
                print(f"llama-router: {fields.message}", file=sys.stderr, flush=True)
            elif as_json:
                screen.print_json(fields)
            else:
                print("\n".join(plain(State.read(fields), shows_all)), flush=True)
        return
    from rich.console import Group
    from rich.text import Text

    with screen.live(sys.stdout) as show:
        terminal, last = screen.console(sys.stdout), State()
        for fields in itertools.chain([first], states):
            problem = [Text(visible(fields.message), "red")] if isinstance(fields, RouterError) else []
            last = last if isinstance(fields, RouterError) else State.read(fields)
            show(Group(*problem, *drawn(last, shows_all, terminal.width)))


def _states(find: Callable[[], Session]) -> Iterator[dict[str, Any] | RouterError]:
    """The state, each second, or why there is none. What goes wrong with the first question is raised."""
    session: Session | None = None
    etag, last = "", None
    while True:
        try:
            session = session or find()
            headers = {"if-none-match": etag} if etag else {}
            with session.open("GET", PATH, headers=headers, timeout=TIMEOUT_S) as answer:
                if answer.status_code == 200:
                    last, etag = session.object_of(answer), answer.headers.get("etag", "")
            if last is not None:
                yield last
        except RouterError as exc:
            if last is None:
                raise
            if session is not None:
                session.close()
            session, etag = None, ""  # the next router may be elsewhere
            yield exc
        time.sleep(EVERY_S)
