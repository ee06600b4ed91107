"""PURE: the flags of each command against a running router, and its words told apart.

One table for the parser, for `--help` and for the completion of shells. What the router has an option for is the same
option here, with the same spellings; `target` reads those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.engine import flags
from router.engine.flags import Arg, Flag, FlagTable
from router.errors import FlagError


@dataclass(frozen=True, slots=True)
class Own:
    """A flag of a command. `takes` stands for its value in `--help`; a switch has none. `completes` says what the value
    can be: "file" or nothing that is known."""

    name: str
    takes: str
    help: str
    short: str = ""
    completes: str = ""
    may_repeat: bool = False

    @property
    def flag(self) -> Flag:
        spellings = (self.short, self.name) if self.short else (self.name,)
        return Flag(self.name, spellings, (), 1 if self.takes else 0, None, repeatable=self.may_repeat)


# How the router is found. The first ones are options of the router too.
SHARED = (
    Own("--host", "HOST", "where the router listens, also the path of its socket"),
    Own("--port", "PORT", "its port"),
    Own("--api-prefix", "PREFIX", "what stands before its paths"),
    Own("--api-key", "KEY", "key to send; others can see it here, so better by LLAMA_API_KEY or a file"),
    Own("--api-key-file", "FILE", "file whose first line is the key", completes="file"),
    Own("--admin-key", "KEY", "key for load, unload and logs, if the router has one for them"),
    Own("--admin-key-file", "FILE", "file with that key", completes="file"),
    Own("--ssl-cert-file", "FILE", "the router's own certificate: only this one is trusted", completes="file"),
    Own("--run-dir", "DIR", "where the router's run folder is", completes="file"),
    Own("--config", "FILE", "the router's file of settings", completes="file"),
)
CONNECTION = (
    Own("--url", "URL", "address of the router, such as https://box:8080/llm"),
    *SHARED,
    Own("--cacert", "FILE", "certificates to trust instead of the usual ones, as PEM", completes="file"),
    Own("--insecure", "", "trust any certificate: whoever is on the way can read key and answers"),
)
JSON = Own("--json", "", "the answer as JSON")

# The settings of a load, by their fields in `POST /models/load`.
SETTINGS: Mapping[str, Own] = {
    "ctx_size": Own("--ctx-size", "N", "tokens of all slots together; auto", "-c"),
    "cache_type_k": Own("--cache-type-k", "TYPE", "type of the cache's keys", "-ctk"),
    "cache_type_v": Own("--cache-type-v", "TYPE", "type of the cache's values", "-ctv"),
    "speculative_type": Own("--speculative-type", "TYPE", "off, default, ngram-mod, draft-mtp ..."),
    "chat_template": Own("--chat-template", "TEXT", "Jinja text, or the name of a built-in template"),
    "n_parallel": Own("--parallel", "N", "slots; auto", "-np"),
}
TEMPLATE_FILE = Own("--chat-template-file", "FILE", "the template's text is sent", completes="file")

FLAGS: Mapping[str, tuple[Own, ...]] = {
    "ps": (
        JSON,
        Own("--all", "", "models that do not run, too", "-a"),
        Own("--watch", "", "go on, and show every change", "-w"),
    ),
    "load": (
        JSON,
        *SETTINGS.values(),
        TEMPLATE_FILE,
        Own("--no-extra-args", "", "forget the other flags that earlier loads set"),
        Own("--no-wait", "", "do not wait until the model serves"),
    ),
    "unload": (
        JSON,
        Own("--all", "", "every model that runs", "-a"),
        Own("--force", "", "cut off the requests that run"),
        Own("--wait", "", "wait until the processes are gone"),
    ),
    "logs": (
        JSON,
        Own("--follow", "", "go on with new lines", "-f"),
        Own("--lines", "N", "how many of the last lines; all, 0", "-n"),
    ),
    "health": (JSON, Own("--timeout", "SECONDS", "how long to wait for the answer")),
    "run": (
        JSON,
        Own("--system", "TEXT", "system message"),
        Own("--image", "FILE", "picture for the question; may be given several times", "", "file", may_repeat=True),
        Own("--set", "NAME=VALUE", "parameter, such as temperature=0.2; may be given several times", may_repeat=True),
        Own("--think", "LEVEL", "whether to think, or how hard: on, off, low, medium, high"),
        Own("--no-history", "", "do not keep what was typed for the next time"),
        Own("--verbose", "", "tokens, and how fast, after each answer"),
    ),
    "completion": (),
}
# The commands that ask no running router.
OTHERS = ("serve", "demo", "list", "import", "pull", "rm", "estimate", "check", "service")


@dataclass(frozen=True, slots=True)
class Words:
    """A command line taken apart: words that are no flags, the flags, and what stands behind `--`."""

    words: tuple[str, ...]
    args: tuple[Arg, ...]
    rest: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        return bool(flags.switch_of(self.args, name))

    def value(self, name: str) -> str | None:
        return flags.value_of(self.args, name)

    def values(self, name: str) -> tuple[str, ...]:
        return flags.values_of(self.args, name)


def flags_of(command: str) -> tuple[Own, ...]:
    return (*FLAGS[command], *(CONNECTION if command != "completion" else ()))


def table_of(command: str) -> FlagTable:
    """`load` takes the engine's flags too: those are its extra arguments."""
    own = [own.flag for own in flags_of(command)]
    known = {spelling for flag in own for spelling in flag.spellings}
    engine = flags.default_table().flags if command == "load" else ()
    return FlagTable([*(flag for flag in engine if not known.intersection(flag.spellings)), *own])


def read(command: str, argv: Sequence[str], *, most: int | None = None) -> Words:
    """Take the words of a command apart; it may have `most` of them. Raises FlagError."""
    argv = list(argv)
    end = argv.index("--") if "--" in argv else len(argv)
    words, args = flags.parse_among_words(argv[:end], table_of(command))
    if most is not None and len(words) > most:
        raise FlagError(f"{command} does not take {words[most][:80]!r}; see llama-router {command} --help")
    return Words(tuple(words), args, tuple(argv[end + 1 :]))


def help_text(command: str) -> str:
    """The flags of a command, as its `--help` has them: its own, and in one line those that find the router."""
    lines = [f"  {_left(own):<28}{own.help}" for own in FLAGS[command]]
    if command != "completion":
        lines += ("", FINDING)
    return "\n".join(lines)


def _left(own: Own) -> str:
    return f"{', '.join(filter(None, (own.short, own.name)))} {own.takes}".rstrip()


FINDING = """\
The router is the one that --url names, or --host and --port; without them LLAMA_ARG_HOST and LLAMA_ARG_PORT; without
these the one that you run on this machine, else 127.0.0.1:8080. Its key comes from LLAMA_API_KEY, --api-key-file or
--api-key, one for loading from LLAMA_ROUTER_ADMIN_KEY. For https: --cacert FILE or --insecure."""
