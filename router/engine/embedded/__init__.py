"""A child program, `python -m router.engine.embedded`: llama.cpp's own C++ server, from the extension xllamacpp.

It takes llama-server's flags and environment variables. The modules follow the way of one setting:

- `arguments` walks over the environment and the command line;
- `table` has a row for each flag, and names its reader and its setter;
- `readers` turn a flag's text into a value;
- `setters` put that value into xllamacpp's CommonParams;
- `server` then loads the model and serves it.

When LLAMA_SERVER_ROUTER_PORT is set, the program behaves as llama-server does as a child of a router. The C++ side
writes state lines to stdout. On stdin, `cmd_router_to_child:exit` or the end of input ends the program. Without that
variable the program is a lone server that runs until SIGTERM or SIGINT.

Exit codes:

- 0: it was stopped;
- 1: it could not serve, or its parent has gone;
- 2: it does not know a flag, or cannot use a flag's value.

Sources: for flags llama.cpp's common/arg.cpp, build 11434; for the protocol tools/server/server-models.cpp.
"""
