"""A child program, `python -m router.engine.embedded`: llama.cpp's own C++ server, from the extension xllamacpp.

It takes llama-server's flags and environment variables. Stands on nothing else of the router: it has to start quickly.
Begin with `table`: each flag is a row that names its reader and its setter. For each setting that `arguments` finds on
the command line, the reader turns text into a value, and the setter puts the value into xllamacpp's CommonParams.
Then `server` loads the model and serves it.

::

    library    xllamacpp, or None if it is not installed           -> nothing
    paths      files whose names xllamacpp cannot take             -> nothing
    readers    what the text of a flag becomes                     -> library
    setters    what a value sets in CommonParams                   -> library readers
    table      the flags, a row each                               -> readers setters
    arguments  from environment and command line to a CommonParams -> library paths setters table
    server     loading, serving, and obeying the parent            -> library
    __main__   the command line: help, list of devices, serve      -> library table arguments server

When LLAMA_SERVER_ROUTER_PORT is set, the program behaves as llama-server does as a child of a router. The C++ side
writes state lines to stdout. On stdin, `cmd_router_to_child:exit` or the end of input ends the program. Without that
variable the program is a lone server that runs until SIGTERM or SIGINT.

Exit codes:

- 0: it was stopped;
- 1: it could not serve, or its parent has gone;
- 2: it does not know a flag, or cannot use a flag's value.

Sources: for flags llama.cpp's common/arg.cpp, build 11434; for the protocol tools/server/server-models.cpp.
"""
