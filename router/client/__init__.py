"""Commands against a running router: `ps`, `load`, `unload`, `logs`, `health`, `run`, `completion`.

Stands on settings (which options there are), engine (flags as data), node (where this user's routers listen), server
(what a path of a socket is) and logs (text as a terminal may show it). Begin with `target`, which router is meant; then
`session`, which asks it. Each command is a module with a `run`; `talk` is the conversation of `run`. Only these
commands import this package, and a command imports `rich` or `prompt_toolkit` only for a terminal: a router that starts
must not wait for them.

::

    failures  PURE: errors, each with its exit code          -> nothing
    options   PURE: the flags of each command                -> nothing
    stream    PURE: bodies in pieces: lines, events          -> failures
    state     PURE: the router's state, and its words        -> nothing
    screen    tables and lines that a terminal can only show -> nothing
    target    which router is meant, its key, whom to trust  -> failures options
    session   requests to it                                 -> failures target
    progress  what a request waits for, while it waits       -> state target session

The commands::

    ps          which models run, and who waits for what -> options state screen target session
    loading     load and unload                          -> options state screen target session progress
    logs        what happened, what a process wrote      -> failures options stream screen target session
    health      whether the router takes requests        -> options screen target session
    completion  words for a shell                        -> options target session
    talk        run                                      -> failures options stream screen target session progress
"""

import sys

# httpx would import its own command line, and with it rich and pygments: as long as all the rest of it takes.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
