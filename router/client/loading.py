"""`load` and `unload`. Flags of `load` are the settings of `POST /models/load`; flags of llama-server are its
`extra_args`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from router import files
from router.client import options, screen, target
from router.client.options import SETTINGS, TEMPLATE_FILE, Words
from router.client.progress import Outlook
from router.client.screen import Status
from router.client.session import Session
from router.client.state import State
from router.engine import flags
from router.errors import FlagError, RouterError
from router.logs.letters import visible

MAX_TEMPLATE_BYTES = 1 << 20
NUMBERS = ("ctx_size", "n_parallel")
POLL_S = 0.2


def load(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    words = options.read("load", argv, most=1)
    if not words.words:
        raise FlagError("name a model: llama-router load MODEL")
    model, body = words.words[0], body_of(words)
    found = target.find(words, environ)
    outlook = Outlook(found, model, f"{model}: loading")
    with Session(found, None) as session, Status(outlook.text, outlook.close):  # it takes as long as it takes
        answer = session.json("POST", "/models/load", body=body)
    if words.has("--json"):
        screen.print_json(answer)
    else:
        print(visible(told(answer)))
    return 0


def body_of(words: Words) -> dict[str, Any]:
    """What `POST /models/load` gets. Raises FlagError."""
    body: dict[str, Any] = {"model": words.words[0]}
    for field, own in SETTINGS.items():
        if (word := words.value(own.name)) is not None:
            body[field] = _setting(field, own.name, word)
    if (path := words.value(TEMPLATE_FILE.name)) is not None:
        body["chat_template"] = _text_of(path)
    ours = {own.name for own in options.flags_of("load")}
    extra = [word for arg in words.args if arg.flag.name not in ours for word in flags.render([arg])]
    extra += words.rest
    if extra and words.has("--no-extra-args"):
        raise FlagError(f"--no-extra-args forgets all of them; leave it out, or leave {extra[0]} out")
    if extra or words.has("--no-extra-args"):
        body["extra_args"] = extra
    body["wait"] = not words.has("--no-wait")
    return body


def _setting(field: str, name: str, word: str) -> Any:
    if word == "preset":
        return None  # back to what the preset says
    if field not in NUMBERS:
        return word
    if word == "auto":
        return 0
    if not word.isdecimal() or not word.isascii() or len(word) > 12:
        raise FlagError(f"{name} takes a number, auto or preset, not {word[:80]!r}")
    return int(word)


def _text_of(path: str) -> str:
    try:
        return files.text_of(files.read(files.expanded(path), MAX_TEMPLATE_BYTES))
    except (OSError, ValueError) as exc:
        raise FlagError(f"{TEMPLATE_FILE.name} {path}: {getattr(exc, 'strerror', None) or exc}") from exc
    except files.NotText as exc:
        raise FlagError(f"{TEMPLATE_FILE.name} {path}: {exc}") from exc


def told(answer: Mapping[str, Any]) -> str:
    """`coder: loaded, context 8192 (changed: --ctx-size 8192)`."""
    effective, changed = answer.get("effective"), answer.get("changed")
    context = effective.get("ctx_size") if isinstance(effective, dict) else None
    line = f"{answer.get('model')}: {str(answer.get('status')).replace('_', ' ')}"
    line += f", context {context}" if context else ""
    names = ", ".join(map(str, changed)) if isinstance(changed, dict | list) else ""
    return line + (f" (changed: {names})" if names else "")


def unload(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    words = options.read("unload", argv)
    if bool(words.words) is words.has("--all"):
        raise FlagError("name models, or say --all: llama-router unload MODEL [MODEL ...]")
    results: list[dict[str, Any]] = []
    code = 0
    with Session(target.find(words, environ)) as session:
        running = () if words.words else _state(session).models
        names = list(words.words) or [model.name for model in running if model.is_running and not model.is_stopping]
        for name in names:
            try:
                session.json("POST", "/models/unload", body={"model": name, "force": words.has("--force")})
                results.append({"model": name, "unloaded": True})
            except RouterError as exc:
                results.append({"model": name, "unloaded": False, "error": exc.message})
                code = code or exc.exit_code
                print(f"llama-router: {visible(name)}: {exc.message}", file=sys.stderr)
        going = {result["model"] for result in results if result["unloaded"]} if words.has("--wait") else set()
        while going and any(_has_process(state, name) for state in [_state(session)] for name in going):
            time.sleep(POLL_S)
    if words.has("--json"):
        screen.print_json(results)
    else:
        for result in results:
            if result["unloaded"]:
                print(visible(f"{result['model']}: {'unloaded' if words.has('--wait') else 'unloads'}"))
        if not names:
            print("no model runs")
    return code


def _state(session: Session) -> State:
    return State.read(session.json("GET", "/router/state"))


def _has_process(state: State, name: str) -> bool:
    """By any of its names; also one that is about to get a process, and one whose process still ends."""
    model = state.model(name)
    return model is not None and model.is_running
