"""llama-server as data and as a program: its flags, which binary there is, and the embedded one.

Stands on the ground alone (errors, near, redaction). Begin with `flags`: every argument is a row of `flags.tsv`. A flag
that clients may set is a word in `allowlist`. `discovery` chooses the program; it is the only module that runs one.

::

    flags      llama-server's arguments as data                            -> nothing
    help       the flags of a build, from its --help                       -> flags
    allowlist  which flags a request may set, and their values             -> flags
    discovery  which llama-server, and what it can do                      -> flags help
    embedded   a program of its own: xllamacpp behind llama-server's flags -> nothing
"""
