"""PURE: `${NAME}` and `~` in the values of preset files.

`${NAME}` is a variable of the router's environment, `${NAME:-value}` says what it is if the variable is unset or empty.
In a value that has one, `$$` is one `$`. A path may begin with `~` or `~user`. Text stays as it is: templates,
grammars, JSON, regular expressions and prose have their own `$` and `{`. Files from the hub are never expanded: a
stranger would read the environment. Called by `presets` for each line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from router import files
from router.engine import values
from router.engine.flags import Arg, Flag
from router.models.ini import Mistake
from router.models.own_keys import OWN_KEYS, TEXT_KEYS

MAX_CHARACTERS = 2**16
_TOKEN = re.compile(r"\$\$|\$\{([^{}$]*)\}|\$\{")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


def expands(key: str, flag: Flag | None) -> bool:
    """Whether variables are replaced in the value of this key. `flag` is the flag that it names, if it names one."""
    if key in OWN_KEYS or flag is None:  # `flag` is none for env.NAME, too
        return key not in TEXT_KEYS
    return values.known_name(flag) not in values.TEXTS


def expanded(key: str, value: str, flag: Flag | None, environ: Mapping[str, str]) -> str:
    """The value with its variables and home folders. Raises Mistake for a variable that is not set."""
    if not expands(key, flag):
        return value
    if "${" in value:
        value = _TOKEN.sub(lambda found: _word(key, found, environ), value)
        if len(value) > MAX_CHARACTERS:
            raise Mistake(f"{key} is longer than {MAX_CHARACTERS} characters with its variables")
        if re.search(r"[\r\n\0]", value):
            raise Mistake(f"{key} would have several lines: a variable of it has")
    if flag is not None and "~" in value:
        for path in values.paths_of(Arg(flag, (value,))):
            if path.startswith("~"):
                value = value.replace(path, str(files.expanded(path)), 1)
    return value


def _word(key: str, found: re.Match[str], environ: Mapping[str, str]) -> str:
    if found[0] == "$$":
        return "$"
    variable = _VARIABLE.fullmatch(found[1]) if found[1] is not None else None
    if variable is None:
        raise Mistake(f"a variable is written ${{NAME}} or ${{NAME:-value}}; {key} has another ${{ (a $ is written $$)")
    name, default = variable[1], variable[2]
    word = environ.get(name)
    if default is not None:
        return word or default
    if word is None:
        raise Mistake(f"the variable {name[:80]} is not set: set it, or write ${{{name[:80]}:-value}}")
    return word
