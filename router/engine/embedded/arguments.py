"""From the environment and the command line to xllamacpp's CommonParams, as llama-server reads them.

`__main__` calls `configure`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from router.engine.embedded import setters
from router.engine.embedded.library import Params, StartError, xllamacpp
from router.engine.embedded.paths import with_name_in_utf8
from router.engine.embedded.table import FLAGS, Flag

SECRETS = ("LLAMA_API_KEY", "HF_TOKEN")  # the variables of flags whose values are never shown
DEFAULT_PORT = 8080


def configure(argv: Sequence[str], environ: Mapping[str, str]) -> Params:
    """The CommonParams that llama-server would have. Raises StartError."""
    params = xllamacpp.CommonParams()
    params.port = DEFAULT_PORT
    params.n_parallel = -1  # the server chooses: four slots that share one KV buffer
    setters.template_values(params, {"preserve_reasoning": "true"})
    for flag, spelling, text in settings(argv, environ):
        apply(params, flag, spelling, text)
    if not params.model.path and not params.model.hf_repo:
        raise StartError("there is no model to serve: give --model FILE", 2)
    # The C++ side wants a path even where it is about to find one in the Hugging Face cache.
    params.model.path = params.model.path or params.model.hf_repo
    if params.escape:
        params.antiprompt = [unescaped(text) for text in params.antiprompt]
    has_tools = params.server_tools or params.mcp_servers_config or params.mcp_servers_json
    if has_tools and not params.cors_origins_explicit:
        params.cors_origins = "localhost"
    return params


def settings(argv: Sequence[str], environ: Mapping[str, str]) -> Iterator[tuple[Flag, str, str]]:
    """Each setting as (flag, how the user spelled it, text).

    The environment comes first, so that the command line wins. Raises StartError for a flag that is not known or lacks
    its value.
    """
    for flag in FLAGS:
        negated = flag.env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")
        if flag.negatives and negated in environ:  # whatever its value
            yield flag, negated, "off"
        elif flag.env in environ:
            yield flag, flag.env, environ[flag.env]
    known = {spelling: (flag, "on") for flag in FLAGS for spelling in flag.spellings}
    known |= {spelling: (flag, "off") for flag in FLAGS for spelling in flag.negatives}
    words = iter(argv)
    for word in words:
        spelling = word.replace("_", "-") if word.startswith("--") else word
        if spelling not in known:
            raise StartError(
                f"{word} is not known to the embedded engine; a llama-server may know it (--engine PATH)", 2
            )
        flag, text = known[spelling]
        if flag.arity:
            try:
                text = next(words)
            except StopIteration:
                raise StartError(f"{word} needs a value", 2) from None
        yield flag, word, text


def apply(params: Params, flag: Flag, spelling: str, text: str) -> None:
    """Read the text and set the value. Raises StartError, in whose message the flag is spelled as the user did."""
    try:
        flag.setter(params, flag.reader(with_name_in_utf8(text)))
    except OSError as error:
        raise StartError(f"{spelling}: {text} cannot be read ({error.strerror})", 1) from error
    except AttributeError as error:
        raise StartError(f"{spelling} needs a newer xllamacpp ({error})", 2) from error
    except (ValueError, ArithmeticError, AssertionError) as error:
        shown = "its value" if flag.env in SECRETS else text
        raise StartError(f"{spelling}: {shown} cannot be used ({error})", 2) from error


def unescaped(text: str) -> str:
    r"""`\n`, `\r`, `\t`, quotes and backslashes as the characters that they stand for."""
    letters = {"n": "\n", "r": "\r", "t": "\t"}
    return re.sub(r"\\([nrt'\"\\])", lambda found: letters.get(found[1], found[1]), text)
