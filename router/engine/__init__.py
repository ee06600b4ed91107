"""llama-server as data and as a program: its flags, which binary there is, and the embedded one.

Stands on the ground alone (errors, near, redaction). Begin with `flags`: every argument is a row of `flags.tsv`. A flag
that requests may set gets a word in `allowlist`, with the bounds of its values; presets and loads then take it. If the
embedded engine has it, it gets a row in `embedded.table` as well. `discovery` chooses the program.

::

    log_lines  PURE: how bad a line of its log is, and how it is shown -> nothing
    renamed    PURE: flags of the past, and what is written now        -> nothing
    flags      llama-server's arguments as data                        -> renamed
    help       the flags of a build, from its --help                   -> flags
    allowlist  which flags a request may set, and their values         -> flags
    values     PURE: what the operator's values may be                 -> flags allowlist
    places     where a llama-server may be                             -> nothing
    programs   runs a program for its answer                           -> nothing
    libraries  the libraries that an engine needs, and their packages  -> programs
    obstacles  why a program cannot be run                             -> libraries
    discovery  which llama-server, and what it knows                   -> flags help places programs libraries obstacles
    engines    several llama-servers side by side                      -> flags discovery
    embedded   a program: xllamacpp behind these flags                 -> nothing
"""
