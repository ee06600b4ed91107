"""Commands against a running router: `ps`, `load`, `unload`, `logs`, `health`, `run`, `completion`.

Stands on settings (which options there are), engine (flags as data), node (where this user's routers listen), server
(what a path of a socket is) and logs (text as a terminal may show it). Begin with `target`, which router is meant; then
`session`, which asks it. Each command is a module with a `run`; `talk` is the conversation of `run`. Only these
commands import this package, and a command imports `rich` or `prompt_toolkit` only for a terminal: a router that starts
must not wait for them.

::

    failures    PURE: errors, each with its exit code           -> nothing
    options     PURE: the flags of each command                 -> nothing
    target      which router is meant, its key, whom to trust   -> failures options
    session     requests to it                                  -> failures target
    screen      tables and lines that a terminal can only show  -> nothing
    state       PURE: the router's state, and its words         -> nothing
    progress    what a request waits for, while it waits        -> session state target
    ps          which models run, and who waits for what        -> options target session screen state
    loading     load and unload                                 -> options target session screen progress
    health      whether the router takes requests               -> options target session screen
"""
