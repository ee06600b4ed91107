"""One model's entry in llama-swap's configuration, to its section of a preset file.

What the command means is read by `command`; here its words become keys, and llama-swap's own settings become the
router's. Every setting that is left out is told, with the reason. A secret that stands in the configuration is never
written; a reference to a variable stays one. Called by `convert`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.engine import flags, renamed, values
from router.engine.flags import DROPPED, DROPPED_KEYS, OWNED, SECRETS, Arg, Flag, FlagTable, boolean
from router.llama_swap import command
from router.llama_swap.command import Command, NotLlamaServer
from router.llama_swap.document import Table, plain_scalar
from router.llama_swap.macros import CLOSE, OPEN, Macros, Unexpandable, variables, with_references
from router.llama_swap.section import Section, escaped, inexpressible
from router.models.expansion import expands
from router.models.own_keys import CLIENTS_FIELDS, OWN_KEYS
from router.models.presets import RESERVED_VARIABLES
from router.models.spec import MODEL_FLAGS
from router.redaction import without_credentials

DEFAULT_TTL = -1  # llama-swap's word for "as for all models"
# Words in the name of a variable that holds a secret; TOKENIZERS_PARALLELISM holds none.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:\w*API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASS|CREDENTIALS?|AUTH)(?:_\d+)?(?:$|_)",
    re.IGNORECASE,
)
_GPU_MASKS = {"CUDA_VISIBLE_DEVICES": "CUDA", "HIP_VISIBLE_DEVICES": "ROCm", "ROCR_VISIBLE_DEVICES": "ROCm"}

# Settings that need no key here, each with the reason.
LEFT_OUT = {
    "cmdStop": "the router stops llama-server itself; stop-timeout = SECONDS says how long that may take",
    "proxy": "the router starts llama-server on a socket of its own",
    "checkEndpoint": "the router sees by itself when llama-server is ready",
    "useModelName": "llama-server answers to any name",
    "metadata": "the model list shows what the file's header says, and tags = WORD,...",
    "capabilities": "the model list takes them from the model's files",
    "concurrencyLimit": "requests wait until they get a slot; parallel = N says how many slots there are",
    "sendLoadingState": "give the router --stream-keepalive SECONDS for signs of life while a model loads",
    "timeouts": "give the router --timeout SECONDS for a model that sends nothing",
}
_READ = frozenset(
    ("cmd", "macros", "name", "description", "env", "aliases", "ttl", "unloadTimeout", "filters", "unlisted")
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for all models: the flags of the engine, the environment, and the port that `${PORT}` is."""

    table: FlagTable
    environ: Mapping[str, str] = field(repr=False)
    port: int = 5800


class LeftOut(Exception):
    """The whole model is; the message says why."""


def section_of(name: str, line: int, entry: Any, macros: Sequence[tuple[str, Any]], around: Surroundings) -> Section:
    """Raises LeftOut."""
    if not isinstance(entry, Table):
        raise LeftOut("its entry is no mapping with a cmd")
    if unset := [variable for variable in variables(name) if variable not in around.environ]:
        raise LeftOut(f"the variable {unset[0]} is not set: set it, and import again")
    name = with_references(name, lambda variable: around.environ[variable])
    if not re.fullmatch(r"[^\]\r\n\0]+", name) or name != name.strip() or name == "*":
        raise LeftOut("its name cannot stand between [ and ]: rename it")
    own = entry.get("macros")
    # The last is replaced first, and may contain those before it.
    entries = [("PORT", around.port), ("MODEL_ID", name), *macros, *(own.items() if isinstance(own, Table) else ())]
    reader = _Reader(Section(name, line), entry, Macros(entries), around)
    try:
        reader.read()
    except (NotLlamaServer, Unexpandable) as exc:
        message = f"its command {exc}" if isinstance(exc, NotLlamaServer) else str(exc)
        raise LeftOut(message) from exc
    return reader.section


class _Reader:
    def __init__(self, section: Section, entry: Table, macros: Macros, around: Surroundings) -> None:
        self.section, self.entry, self.macros, self.around = section, entry, macros, around

    def __repr__(self) -> str:
        return f"<_Reader of {self.section}>"

    def read(self) -> None:
        """Raises NotLlamaServer, Unexpandable, LeftOut."""
        text = self.entry.get("cmd")
        if not isinstance(text, str) or not text.strip():
            raise LeftOut("it has no cmd")
        found = command.read(self.macros.expand(command.without_comments(text)))  # macros in comments need not exist
        self._arguments(found)
        if found.image is None and re.search(r"[/\\]", found.program):
            shown = found.program[:200]
            self.section.note(
                f"{shown}: the router's own llama-server runs it; engine = {shown} keeps this one", self._line("cmd")
            )
        for sentence in found.left_out:
            self.section.note(sentence, self._line("cmd"))
        for key in self.entry.doubled:
            self.section.note(f"{key} is written twice: the last one counts", self._line(key))
        self._texts()
        self._seconds("ttl", "ttl")
        self._seconds("unloadTimeout", "stop-timeout")
        if self._value("unlisted") is True:
            self.section.set("unlisted", "on", self._line("unlisted"))
        self._filters()
        for key, value in self.entry.items():
            if key in LEFT_OUT and value not in (None, "", 0, [], {}):
                self.section.note(f"{key}: {LEFT_OUT[key]}", self._line(key))
            elif key not in LEFT_OUT and key not in _READ:
                self.section.note(f"{key}: the router has nothing for it", self._line(key))

    def _line(self, key: str) -> int:
        return self.entry.lines.get(key, self.section.line)

    def _value(self, key: str) -> Any:
        """The value of a setting that is a number or a switch, from a variable too."""
        value = self.macros.expand_value(self.entry.get(key))
        return plain_scalar(self._resolved(value)) if isinstance(value, str) and OPEN in value else value

    def _resolved(self, text: str) -> str:
        """The text with the values of its variables. Raises Unexpandable for one that is not set."""
        for name in variables(text):
            if name not in self.around.environ:
                raise Unexpandable(f"the variable {name} is not set: set it, and import again")
        return with_references(text, lambda name: self.around.environ[name])

    # The command

    def _arguments(self, found: Command) -> None:
        line = self._line("cmd")
        layers = [self._from_variables([*self._env(), *found.env]), self._from_words(found.argv)]
        args = flags.merge(*layers)
        if not any(arg.flag.name in MODEL_FLAGS for arg in args):
            is_router = any(word.startswith(("--models-dir", "--models-preset")) for word in found.argv)
            why = "is a router of models itself: give its options to llama-router" if is_router else "names no model"
            raise NotLlamaServer(why)
        for arg in args:
            name = arg.flag.name.lstrip("-")
            arg = self._outside(arg, found)
            value = " ".join(arg.values) if arg.flag.arity else "off" if arg.negated else "on"
            if reason := self._refusal(arg, value):
                self.section.note(f"{name}: {reason}", line)
            elif name in OWN_KEYS:
                self.section.set(name, value, line)
            else:
                self.section.set(name, self._escaped(arg.flag, value), line)

    def _escaped(self, flag: Flag, value: str) -> str:
        if expands(flag.name.lstrip("-"), flag):
            return escaped(value)
        return self._resolved(value)

    def _refusal(self, arg: Arg, value: str) -> str | None:
        """Why an argument is not written; None if it is."""
        if not arg.flag.arity:
            return None
        resolved = Arg(arg.flag, tuple(map(self._resolved, arg.values)), arg.negated)
        is_reference = re.fullmatch(f"{OPEN}[^{CLOSE}]*{CLOSE}", value) is not None
        if arg.flag.name in SECRETS and not is_reference:
            return f"a secret is not written: set {SECRETS[arg.flag.name]} in the router's environment"
        if without_credentials(value) != value:
            return "an address with a password is not written"
        if not expands(arg.flag.name.lstrip("-"), arg.flag) and any(map(_SECRET_NAME.search, variables(value))):
            return "a secret is not written, and a variable cannot stand in this text"
        if wrong := values.fault(resolved, self.around.table.choices):
            return wrong
        return inexpressible(self._resolved(value) if OPEN in value else value)

    def _outside(self, arg: Arg, found: Command) -> Arg:
        """The argument with the paths of the machine in place of a container's."""
        if found.image is None or not (paths := values.paths_of(arg)):
            return arg
        value = arg.values[0]
        for path in paths:
            if outside := found.outside(path):
                value = value.replace(path, outside)
            else:
                message = f"{arg.flag.name}: {path[:200]} is a path inside the container: change it to the machine's"
                self.section.note(message, self._line("cmd"))
        return Arg(arg.flag, (value,), arg.negated)

    def _from_words(self, words: Sequence[str]) -> list[Arg]:
        """The arguments among the words of a command; what is no flag of the engine is left out with a note."""
        table, line = self.around.table, self._line("cmd")
        args: list[Arg] = []
        owned: list[str] = []
        index = 0
        while index < len(words):
            spelling, equals, inline = (
                words[index].partition("=") if words[index].startswith("--") else (words[index], "", "")
            )
            index += 1
            given = [inline] if equals else []
            found = table.lookup(spelling)
            flag = found[0] if found else None
            count = flag.arity if flag else 0
            if flag is None:
                # One that is not known may have a value. What looks like a flag is one, with a line of its own.
                while index < len(words) and not given and not re.match(r"-(-|[A-Za-z])", words[index]):
                    given.append(words[index])
                    index += 1
            while len(given) < count and index < len(words) and not table.find(words[index]):
                given.append(words[index])
                index += 1
            if (
                flag
                and flag.name in values.SCALED_PATHS
                and index < len(words)
                and re.fullmatch(r"[0-9.]+", words[index])
            ):
                given, index = [f"{given[0]}:{words[index]}"] if given else [], index + 1  # two words, until 2025
            if flag is None or _is_removed(flag, table):
                args += self._of_old_flag(spelling, given)
            elif (
                flag.name in ("--alias", "--api-key", "--api-key-file")
                or flag.name in OWNED
                or spelling.lstrip("-") in DROPPED_KEYS
            ):
                owned.append(flag.name)
            elif not given and flag.name in values.SWITCH_WORDS:
                self.section.note(
                    f"{spelling}: written as {flag.name.lstrip('-')} = on, since it needs a value today", line
                )
                args.append(Arg(flag, ("on",)))
            elif len(given) < count:
                self.section.note(f"{spelling}: it has no value", line)
            elif not count and equals:
                on = boolean(inline)
                args += [Arg(flag, negated=bool(found and found[1]) is on)] if on is not None else []
            else:
                args.append(Arg(flag, tuple(given), bool(found and found[1])))
        self._note_owned(dict.fromkeys(owned))
        return args

    def _note_owned(self, owned: Mapping[str, None]) -> None:
        line = self._line("cmd")
        keys = [name for name in owned if name.startswith("--api-key")]
        names = [name for name in owned if name == "--alias"]
        others = [name for name in owned if name not in (*keys, *names)]
        if others:
            verb = "sets it" if len(others) == 1 else "sets them"
            self.section.note(f"{', '.join(others)}: the router {verb}", line)
        if keys:
            self.section.note(f"{', '.join(keys)}: keys of clients are the router's, by --api-key-file FILE", line)
        if names:
            self.section.note("--alias: clients ask for the model by its name here, and by alias = NAME,...", line)

    def _of_old_flag(self, spelling: str, given: Sequence[str], flag: str = "") -> list[Arg]:
        """The arguments that stand for one that the engine does not have (any more). `flag` is its name, if `spelling`
        is a variable."""
        table, line = self.around.table, self._line("cmd")
        now = renamed.now(flag or spelling)
        target = table.lookup(f"--{now.key}") if now and now.key else None
        if now and target and (now.value is not None or given):
            word = given[0] if now.value is None else now.value
            self.section.note(f"{spelling}: written as {now.key} = {word}, its name today", line)
            return [Arg(target[0], (word,))] if target[0].arity else [Arg(target[0], negated=not boolean(word))]
        shown = (
            spelling
            if re.fullmatch(r"-*[A-Za-z][\w.-]{1,60}", spelling) and spelling[0] in "-L"
            else "a word that is no flag"
        )
        self.section.note(f"{shown}: {now or 'this llama-server has no such flag'}", line)
        return []

    # The environment of the command

    def _env(self) -> list[tuple[str, str]]:
        listed = self.entry.get("env")
        pairs: list[tuple[str, str]] = []
        for item in listed if isinstance(listed, list) else [] if listed is None else [listed]:
            text = self.macros.expand_value(item)
            if isinstance(text, str) and re.match(r"[A-Za-z_]\w*=", text, re.ASCII):
                name, _, value = text.partition("=")
                pairs.append((name, value))
            else:
                self.section.note("env: an entry is not NAME=VALUE", self._line("env"))
        return pairs

    def _from_variables(self, pairs: Sequence[tuple[str, str]]) -> list[Arg]:
        """The arguments that variables stand for. The other variables become keys of their own."""
        args: list[Arg] = []
        for name, value in dict(pairs).items():
            known = self.around.table.by_key(name) if name.startswith("LLAMA_") else None
            if known and known[0].name not in OWNED | DROPPED:
                on = boolean(self._resolved(value))
                if known[0].arity:
                    args.append(Arg(known[0], (value,)))
                elif on is not None:
                    args.append(Arg(known[0], negated=on is known[1]))
            elif known is None and name.startswith("LLAMA_ARG_") and renamed.now(name.removeprefix("LLAMA_ARG_")):
                args += self._of_old_flag(name, [value], name.removeprefix("LLAMA_ARG_"))
            elif reason := self._variable_refusal(name, value, known):
                self.section.note(f"{name}: {reason}", self._line("env"))
            else:
                self.section.set(f"env.{name}", escaped(value), self._line("env"))
        return args

    def _variable_refusal(self, name: str, value: str, known: tuple[Flag, bool] | None) -> str | None:
        if name in _GPU_MASKS:
            kind = _GPU_MASKS[name]
            if not re.fullmatch(r"\d+(\s*,\s*\d+)*", value):
                return "the router chooses GPUs by free memory; device = NAME,... binds a model to some, or none to RAM"
            names = ",".join(f"{kind}{int(number)}" for number in value.split(","))
            return f"the router chooses GPUs by free memory; to bind the model to these, write device = {names}"
        if known or RESERVED_VARIABLES.fullmatch(name):
            return "the router sets it"
        is_reference = not re.sub(f"{OPEN}[^{CLOSE}]*{CLOSE}", "", value) and bool(value)
        if _SECRET_NAME.search(name) and not is_reference:
            return "a secret is not written: set it in the router's environment, which children get too"
        if without_credentials(value) != value:
            return "an address with a password is not written"
        self._resolved(value)
        return inexpressible(value)

    # llama-swap's own settings

    def _texts(self) -> None:
        title, text = (self._text(key) for key in ("name", "description"))
        both = f"{title}: {text}" if title and text else title or text
        if both:
            self.section.set("description", both, self._line("description"))

    def _text(self, key: str) -> str:
        value = self.macros.expand_value(self.entry.get(key))
        if value is None:
            return ""
        if reason := self._secret_in(value):
            self.section.note(f"{key}: {reason}", self._line(key))
            return ""
        return " ".join(self._resolved(str(value)).split())

    def _seconds(self, key: str, own_key: str) -> None:
        value = self._value(key)
        if value is None or value == DEFAULT_TTL or (key != "ttl" and value == 0):
            return
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            self.section.note(f"{key}: it is no number of seconds", self._line(key))
        else:
            self.section.set(own_key, f"{value:g}" if value < 1e6 else str(int(value)), self._line(key))

    def aliases(self) -> list[str]:
        """The other names that requests may use."""
        listed = self.entry.get("aliases")
        found: list[str] = []
        for item in listed if isinstance(listed, list) else [] if listed is None else [listed]:
            word = item.get("id") if isinstance(item, Table) else item
            if isinstance(item, Table) and set(item) - {"id"}:
                self.section.note(
                    "aliases: their names and listing are not carried over, their ids are", self._line("aliases")
                )
            word = self.macros.expand_value(word)
            if isinstance(word, str | int | float) and str(word).strip() and "," not in str(word):
                found.append(str(word).strip())
            else:
                self.section.note("aliases: one is no name", self._line("aliases"))
        return found

    def _filters(self) -> None:
        names = self.aliases()
        filters = self.entry.get("filters")
        line = self._line("filters")
        if isinstance(filters, Table):
            strip = filters.get("stripParams") or filters.get("strip_params")
            self._strip(self.macros.expand_value(strip), line)
            forced, soft = self._params(filters.get("setParams"), "setParams", line)
            for key, params in (("set-params", forced), ("default-params", soft)):
                if params:
                    self._set_json(key, params, line)
            names += self._by_id(filters.get("setParamsByID"), line)
            for key in filters:
                if key not in ("stripParams", "strip_params", "setParams", "setParamsByID"):
                    self.section.note(f"filters.{key}: the router has nothing for it", line)
        elif filters is not None:
            self.section.note("filters: it is no mapping", line)
        others = [name for name in dict.fromkeys(names) if name != self.section.name]
        if others:
            self.section.set("alias", ", ".join(others), self._line("aliases"))

    def _strip(self, value: Any, line: int) -> None:
        words = value if isinstance(value, list) else str(value or "").split(",")
        names = [str(word).strip() for word in words if str(word).strip()]
        if kept := [name for name in dict.fromkeys(names) if name not in CLIENTS_FIELDS]:
            self.section.set("strip-params", ", ".join(kept), line)
        for name in CLIENTS_FIELDS.intersection(names):
            self.section.note(f"filters.stripParams: {name} stays, only the client decides about it", line)

    def _by_id(self, by_id: Any, line: int) -> list[str]:
        """Parameters that go by the name that a request uses. Returns these names."""
        if by_id is None:
            return []
        if not isinstance(by_id, Table):
            self.section.note("filters.setParamsByID: it is no mapping", line)
            return []
        found: dict[str, dict[str, Any]] = {}
        names: list[str] = []
        for key, params in by_id.items():
            name = self._resolved(self.macros.expand(key)).strip()
            if "," in name:
                self.section.note("filters.setParamsByID: a name with a comma in it", line)
                continue
            names.append(name)
            forced, soft = self._params(params, f"filters.setParamsByID[{name}]", line)
            if soft:
                self.section.note(
                    f"filters.setParamsByID[{name}]: {', '.join(soft)}: only values that are always set", line
                )
            if forced:
                found[name] = forced
        if found:
            self._set_json("set-params-by-name", found, line)
        return names

    def _params(self, params: Any, where: str, line: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fields that are always set, and those that are set if the request does not have them (`temperature?`)."""
        forced: dict[str, Any] = {}
        soft: dict[str, Any] = {}
        if params is None:
            return forced, soft
        if not isinstance(params, Table):
            self.section.note(f"{where}: it is no mapping", line)
            return forced, soft
        for key, value in self.macros.expand_value(params).items():
            name, is_soft = key.removesuffix("?"), key.endswith("?")
            if name in CLIENTS_FIELDS:
                self.section.note(f"{where}: {name} stays, only the client decides about it", line)
                continue
            if reason := self._secret_in(value):
                self.section.note(f"{where}: {name}: {reason}", line)
                continue
            top, *inner = name.split(".")
            value = _map_texts(value, self._resolved)
            for part in reversed(inner):
                value = {part: value}
            target = soft if is_soft else forced
            if inner and isinstance(target.get(top), dict):
                value = _merged(target[top], value)
            target[top] = value
        return forced, {name: value for name, value in soft.items() if name not in forced}

    def _secret_in(self, value: Any) -> str | None:
        texts: list[str] = []
        _map_texts(value, lambda text: texts.append(text) or text)  # type: ignore[func-returns-value]
        names = [name for text in texts for name in variables(text)]
        return "a secret is not written" if any(map(_SECRET_NAME.search, names)) else None

    def _set_json(self, key: str, value: Any, line: int) -> None:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except ValueError:
            self.section.note(f"{key}: a value is no number that JSON has", line)
            return
        self.section.set(key, text, line)


def _is_removed(flag: Flag, table: FlagTable) -> bool:
    """Whether the engine lists the flag only to say that it is gone."""
    now = renamed.now(flag.name)
    return (
        now is not None
        and now.key is not None
        and table.find(f"--{now.key}") is not None
        and now.key != flag.name.lstrip("-")
    )


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    match value:
        case str():
            return change(value)
        case Mapping():
            return {change(key): _map_texts(inner, change) for key, inner in value.items()}
        case list():
            return [_map_texts(inner, change) for inner in value]
    return value


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(one)
    for key, value in other.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both
