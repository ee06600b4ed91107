"""`run MODEL [question]`: one answer on stdout, or a conversation if there is a terminal on both sides."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from router.client import options, screen, target
from router.client.failures import NotReached
from router.client.options import Words
from router.client.progress import Outlook
from router.client.screen import Status
from router.client.session import Session, in_url
from router.client.talk import pictures, typed
from router.client.talk.answer import Answer
from router.client.talk.conversation import Conversation
from router.client.talk.show import Writer, note
from router.client.talk.typed import Slash
from router.client.target import Target
from router.errors import FlagError, RouterError
from router.text import valid

if TYPE_CHECKING:
    from router.client.talk.editor import Editor

MAX_STDIN_BYTES = 16 << 20
PLACEHOLDER = "Write a message (/? for help)"


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    words = options.read("run", argv)
    if not words.words:
        raise FlagError("name a model: llama-router run MODEL")
    talk = _conversation(words)
    question = " ".join((*words.words[1:], *words.rest))
    if not sys.stdin.isatty():
        question = "\n\n".join(filter(None, (question, _stdin())))
        if not question:
            raise FlagError("there is no question, and nothing on stdin")
    found = target.find(words, environ)
    if question or not sys.stdout.isatty():
        return _answer_once(found, talk, question, words)
    if words.has("--json") or words.values("--image"):
        raise FlagError("--json and --image are for a question on the command line")
    from router.client.talk import editor

    lines = editor.Editor(editor.history(environ, is_kept=not words.has("--no-history")), PLACEHOLDER)
    Talk(Session(found, None), talk, words.has("--verbose"), lambda: target.find(words, environ)).converse(lines)
    return 0


def _conversation(words: Words) -> Conversation:
    """Raises FlagError."""
    talk = Conversation(words.words[0], valid(words.value("--system") or ""))
    for pair in words.values("--set"):
        name, equals, value = pair.partition("=")
        if not equals:
            raise FlagError(f"--set takes NAME=VALUE, not {pair[:80]!r}")
        talk.set_parameter(name, [value])
    if (level := words.value("--think")) is not None:
        talk.set_think(level)
    return talk


def _stdin() -> str:
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise FlagError(f"stdin has more than {MAX_STDIN_BYTES >> 20} MiB")
    return data.decode(errors="replace").strip("\n")


def _answer_once(found: Target, talk: Conversation, question: str, words: Words) -> int:
    """The answer alone goes to stdout."""
    if not question:
        raise FlagError("there is no question; a conversation needs a terminal for its answers too")
    talk.ask(valid(question), [pictures.read(path)[1] for path in words.values("--image")])
    answer, writer, began, first = Answer(), Writer(shows_thoughts=False), time.monotonic(), 0.0
    with Session(found, None) as session:
        outlook = Outlook(found, talk.model, f"{talk.model}: waits for the answer")
        with (
            Status(outlook.text, outlook.close) as status,
            contextlib.closing(answer.pieces(session, talk.request())) as pieces,
        ):
            try:
                for piece in pieces:
                    first = first or time.monotonic() - began
                    if not words.has("--json") and not piece.is_thought:
                        status.clear()
                        writer.write(piece)
            finally:
                status.clear()
                if not words.has("--json"):
                    writer.end()
    if words.has("--json"):
        screen.print_json(answer.as_json(talk.model))
    if words.has("--verbose"):
        print(answer.figures(first, time.monotonic() - began), file=sys.stderr)
    return 0


@dataclass(slots=True)
class Talk:
    """A conversation at a terminal. Nothing that goes wrong with one message ends it, not even the router's end: it is
    found again where it has started anew."""

    session: Session
    talk: Conversation
    is_verbose: bool
    find: Callable[[], Target]

    def converse(self, editor: Editor) -> None:
        """Until the user leaves. Raises one of `failures` if there is no such model."""
        self._check(self.talk.model)
        self._preload()
        interrupts = 0
        while True:
            try:
                line = editor.ask()
            except EOFError:
                return
            except KeyboardInterrupt:
                interrupts += 1
                if interrupts > 1:
                    return
                note("ctrl-C again, ctrl-D or /bye leaves")
                continue
            interrupts = 0
            slash = typed.read_slash(line, pictures.is_file)
            try:
                if slash and slash.name == "/bye":
                    return
                if slash:
                    self._obey(slash)
                elif text := typed.without_quotes(line):
                    self._send(valid(text))
            except KeyboardInterrupt:
                interrupts = 1
            except NotReached as exc:
                note(exc.message)
                self._look_elsewhere()
            except RouterError as exc:
                note(exc.message)
            print(flush=True)

    def _look_elsewhere(self) -> None:
        """A router that has started anew is another one, and may be at another address."""
        with contextlib.suppress(RouterError):
            before, found = self.session.target, self.find()
            if found != before or found.router != before.router:
                self.session.close()
                self.session = Session(found, None)
                note(f"the router is now {found}; send it again")

    def _send(self, text: str) -> None:
        self.talk.ask(text, self._pictures(text))
        answer, writer, began, first = Answer(), Writer(), time.monotonic(), 0.0
        outlook = Outlook(self.session.target, self.talk.model, f"{self.talk.model}: reads the prompt")
        try:
            with (
                Status(outlook.text, outlook.close) as status,
                contextlib.closing(answer.pieces(self.session, self.talk.request())) as pieces,
            ):
                for piece in pieces:
                    first = first or time.monotonic() - began
                    status.clear()
                    writer.write(piece)
        except KeyboardInterrupt:
            writer.end()
            note("(stopped)")
            raise
        finally:
            writer.end()
            if answer.text:
                self.talk.answer(answer.text)
            else:
                self.talk.forget_question()
        if answer.finish == "length":
            note("(cut off: no more tokens for this answer, or no more room in the context)")
        if self.is_verbose:
            note(answer.figures(first, time.monotonic() - began))

    def _pictures(self, text: str) -> list[str]:
        """The pictures that a message names, if the model takes any. Raises FlagError for one that cannot be read."""
        found = [path for _, path in typed.paths_in(text) if pictures.is_file(path)]
        if found and "image" not in self._modalities():
            note(f"{self.talk.model} takes no pictures; the path is sent as text")
            return []
        urls = []
        for path in found:
            file, url = pictures.read(path)
            note(f"picture: {file.name}")
            urls.append(url)
        return urls

    def _obey(self, slash: Slash) -> None:
        match slash.name:
            case "/?":
                note("\n".join(typed.HELP))
            case "/set parameter":
                name, *values = slash.words() or [""]
                self.talk.set_parameter(name, values)
            case "/set system":
                self.talk.system = valid(typed.without_quotes(slash.rest))
            case "/set think":
                self.talk.set_think(slash.rest)
            case "/set verbose" | "/set quiet":
                self.is_verbose = slash.name == "/set verbose"
            case "/load":
                if not slash.rest:
                    raise FlagError("name a model: /load MODEL")
                self._check(slash.rest)
                self.talk.model = slash.rest
                self._preload()
                note(f"now with {slash.rest}; the conversation goes on, /clear begins a new one")
            case "/clear":
                self.talk.clear()
                note("forgotten")
            case "/show":
                self._show()
            case "/set":
                raise FlagError("/set takes parameter, system, think, verbose or quiet; /? says more")
            case _:
                raise FlagError(f"there is no command {slash.name[:80]}; /? lists them")

    def _show(self) -> None:
        entry = self._check(self.talk.model)
        status, context = entry.get("status"), entry.get("context")
        state = status.get("value") if isinstance(status, dict) else None
        tokens = context.get("effective") if isinstance(context, dict) else None
        lines = [f"model: {self.talk.model}", f"state: {state}", f"context: {tokens or 'not known yet'}"]
        lines += [f"takes: {', '.join(self._modalities(entry))}", *self.talk.settings()]
        note("\n".join(lines))

    def _check(self, model: str) -> dict[str, Any]:
        """The model's entry in the list. Raises one of `failures`."""
        return self.session.json("GET", f"/v1/models/{in_url(model, '/')}", timeout=30.0)

    def _modalities(self, entry: Mapping[str, Any] | None = None) -> list[str]:
        entry = self._check(self.talk.model) if entry is None else entry
        architecture = entry.get("architecture")
        found = architecture.get("input_modalities") if isinstance(architecture, dict) else None
        return [str(word) for word in found] if isinstance(found, list) else ["text"]

    def _preload(self) -> None:
        """Have the model loaded while the first message is typed. That it cannot be is told with the message."""

        def ask() -> None:
            with contextlib.suppress(RouterError), Session(self.session.target, 600.0) as session:
                session.json("GET", "/props", params={"model": self.talk.model, "autoload": "1"})

        threading.Thread(target=ask, daemon=True).start()
