"""What a preset file from the hub may set: a stranger has written it.

It may say which repositories its models come from, set the flags that may be set from outside (`engine.allowlist`), and
describe its models. It may not name paths, variables, tools or addresses, and it may not take anything from other
models. Called by `presets` for each line of such a file.
"""

from __future__ import annotations

import re

from router.engine import allowlist
from router.engine.flags import Arg, Flag
from router.hub.names import MAIN, NAME, without_host
from router.models.ini import DEFAULTS, Line, Mistake
from router.models.own_keys import read_seconds

REPOSITORY_KEYS = frozenset({"hf-repo", "hf-file", "spec-draft-hf"})
DESCRIPTIVE_KEYS = frozenset(
    {"alias", "tags", "description", "unlisted", "default-params", "load-on-startup", "stop-timeout", "ttl"}
)
ALLOWED_KEYS = frozenset(name.lstrip("-") for name in allowlist.SAFE) | REPOSITORY_KEYS | DESCRIPTIVE_KEYS
MAX_STOP_TIMEOUT_S = 60.0  # other models wait for so long until one of a stranger has stopped
# A path inside a repository: relative, and without hidden files and `..`.
_REPOSITORY_PATH = re.compile(r"(?!/)(?!.*(?:^|/)\.)[\w./ +@=,()-]+", re.ASCII)


def check_foreign(line: Line, flag: Flag | None, section: str) -> None:
    """Raises Mistake if a stranger may not say this. `flag` is the flag that the key names, None if it names none."""
    name = flag.name.lstrip("-") if flag else line.key
    if name not in REPOSITORY_KEYS | DESCRIPTIVE_KEYS and not (flag and allowlist.is_safe(flag)):
        raise Mistake(f"{line.key} is not taken from the hub: copy the file, and name the copy by --models-preset")
    if fault := _fault(name, line, flag, section):
        raise Mistake(f"{line.key} {fault}, as it comes from the hub")


def _fault(name: str, line: Line, flag: Flag | None, section: str) -> str | None:
    """What is wrong with the value of an allowed key, as the rest of a sentence."""
    value = line.value
    if section == DEFAULTS and name in REPOSITORY_KEYS | {"load-on-startup"}:
        return "is for one model: move it into that model's section"
    match name:
        case "hf-repo" | "spec-draft-hf" if not NAME.fullmatch(without_host(value)):
            return "takes user/repo or user/repo:quant"
        case "hf-repo" if "/" in section and _repository(section) != _repository(value):
            return f"takes the repository that {section} is the name of, or the section another name, without a slash"
        case "hf-repo" | "spec-draft-hf":
            return None
        case "hf-file":
            return None if _REPOSITORY_PATH.fullmatch(value) else "takes the name of a file in the repository"
        case "alias":
            return "takes no names of repositories, which are other models'" if "/" in value else None
        case "stop-timeout":
            return None if read_seconds(line) <= MAX_STOP_TIMEOUT_S else f"takes at most {MAX_STOP_TIMEOUT_S:g} seconds"
        case _ if flag and name not in DESCRIPTIVE_KEYS:
            return allowlist.fault(Arg(flag, (value,) if flag.arity else ()))
    return None


def _repository(name: str) -> tuple[str, str] | None:
    """The repository and the revision that a name of the hub means; None if it is no such name."""
    found = NAME.fullmatch(without_host(name))
    return (found["repo"], found["revision"] or MAIN) if found else None
