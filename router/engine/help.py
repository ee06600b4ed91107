"""The flags of a build, from what its `--help` prints.

`discovery` reads the table of another build than b11434 by `parse_help`. To renew `flags.tsv`, in `router/engine`:
`llama-server --help | python -m router.engine.help > flags.tsv`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from router.engine.flags import Flag, FlagTable


def parse_help(text: str) -> FlagTable:
    """The table that the text of `llama-server --help` describes.

    A flag's line starts in the first column, its help in column 40 or on the next line (`common_arg::to_string`).
    """
    entries: list[list[str]] = []
    for line in text.splitlines():
        if re.match(r"--?[a-zA-Z]", line):
            entries.append([line])
        elif entries:
            entries[-1].append(line)
    flags = [_flag_of(entry) for entry in entries]
    return FlagTable(flags, {flag.name: _choices(entry) for flag, entry in zip(flags, entries, strict=True)})


def _flag_of(lines: Sequence[str]) -> Flag:
    # The help starts after at least two blanks. Before it, only the padding after a short spelling's comma has two.
    head = re.split(r"(?<![, ]) {2,}", lines[0], maxsplit=1)[0]
    spellings, hint = re.match(r"((?:-[\w.-]+,? *)+)(.*)", head).groups()  # type: ignore[union-attr]
    names = re.findall(r"-[\w.-]+", spellings)
    arity = 0 if not hint else 2 if re.fullmatch(r"[A-Z]+ [A-Z]+", hint) else 1
    # Positive spellings come first and end with a long one: `-kvo, --kv-offload, -nkvo, --no-kv-offload`.
    positives = max((i for i, n in enumerate(names, 1) if n.startswith("--") and not n.startswith("--no-")), default=0)
    if arity or not any(name.startswith("--no-") for name in names[positives:]):
        positives = len(names)
    env = re.search(r"^ +\(env: (\w+)\)$", "\n".join(lines), re.MULTILINE)
    return Flag.make(names[: positives or None], names[positives:] if positives else [], arity, env[1] if env else None)


def _choices(lines: Sequence[str]) -> frozenset[str]:
    """The words that a flag's help names: `{a,b}`, `[a|b]`, `allowed values: a, b`, `- a: what it does`."""
    text = "\n".join(lines)
    words = [*re.findall(r"^ +- ([\w.+-]+)(?: \([^)]*\))?:", text, re.MULTILINE)]
    words += re.findall(r"'([\w.+-]+)'", text)
    for group in re.findall(r"[{\[<]([\w.+-]+(?:[,|][\w.+-]+)+)[}\]>]", lines[0]):
        words += re.split(r"[,|]", group)
    if found := re.search(r"allowed values:((?:\s+[\w.+-]+,)*\s+[\w.+-]+)", text):
        words += re.findall(r"[\w.+-]+", found[1])
    if found := re.search(r"--[\w-]+ ([\w.+-]+(?:,[\w.+-]+)+)(?:\s|$)", lines[0]):
        words += found[1].split(",")
    return frozenset(words)


def dump(table: FlagTable) -> str:
    """The text of `flags.tsv`."""
    rows = ("\t".join((" ".join(f.spellings), " ".join(f.negatives), str(f.arity), f.env or "")) for f in table.flags)
    return "\n".join(("# spellings\tnegative spellings\tarity\tenvironment", *rows, ""))


if __name__ == "__main__":
    sys.stdout.write(dump(parse_help(sys.stdin.read())))
