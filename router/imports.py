"""`llama-router import`: reads the configuration of another program, and writes a preset file.

The only format that is understood is llama-swap's. The preset file is written whole or not at all, and never over
another file unless that is asked for. Called by `commands`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from router import files
from router.config import Config
from router.engine import flags
from router.engine.flags import FlagTable
from router.errors import ConfigError, FlagError
from router.llama_swap import convert as conversion
from router.llama_swap.convert import Conversion
from router.llama_swap.document import Unreadable
from router.logs.letters import visible
from router.logs.streams import say
from router.plan import known_flags

MAX_FILE_BYTES = 1 << 20


def run(argv: list[str], environ: Mapping[str, str]) -> int:
    """The exit code: 1 if no model was imported. Raises ConfigError."""
    taking = [("-o", "--output"), ("--engine",)]
    takes = FlagTable(
        [flags.Flag(words[-1], words, (), 1, None, repeatable=False) for words in taking]
        + [flags.Flag("--force", ("--force",), (), 0, None, repeatable=False)]
    )
    given, args = flags.parse_among_words(argv, takes)
    if len(given) != 1:
        raise FlagError("import needs one file: llama-router import CONFIG.yaml [-o FILE.ini]")
    output, force = flags.value_of(args, "--output"), bool(flags.switch_of(args, "--force"))
    output = None if output == "-" else output
    if output:
        check_free(Path(output), force=force)
    found = convert(Path(given[0]), known_flags(argv, environ, Config()), environ)
    for note in found.notes:
        say(f"{visible(given[0])}{f':{note.line}' if note.line else ''}: {note}")
    if not found.models:
        say(f"llama-router: no model of {visible(given[0])} runs llama-server: there is nothing to import")
        return 1
    if output:
        write(Path(output), found.text, force=force)
        print(visible(f"{output}: {len(found.models)} models; llama-router --models-preset {output} serves them"))
    else:
        print(found.text, end="")
    return 0


def convert(path: Path, table: FlagTable, environ: Mapping[str, str]) -> Conversion:
    """What the file becomes. Raises ConfigError if it cannot be read, or is no configuration of llama-swap."""
    try:
        text = files.text_of(files.read_secret(path, MAX_FILE_BYTES))  # it may come from `<(program)`, and hold keys
        return conversion.convert(text, path.name, table, environ)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except (files.NotText, Unreadable) as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise ConfigError(f"{where}: {visible(error.message)}") from error


def check_free(path: Path, *, force: bool) -> None:
    """Raises FlagError for a file that would be overwritten."""
    if os.path.lexists(path) and not force:
        raise FlagError(f"{path} is there already: name another file, or replace it with --force")


def write(path: Path, text: str, *, force: bool) -> None:
    """Raises FlagError for a file that is there already, ConfigError if it cannot be written."""
    check_free(path, force=force)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:50]}.", dir=path.parent)
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # nothing in it is a secret
        if force:
            os.replace(temporary, path)
            temporary = None
        else:
            os.link(temporary, path)  # fails if someone else has made the file meanwhile
    except FileExistsError as error:
        raise FlagError(f"{path} is there already: name another file, or replace it with --force") from error
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
