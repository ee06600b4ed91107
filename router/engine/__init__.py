"""llama-server as data and as a program: its flags, which binary there is, and the embedded one.

Stands on the ground alone (errors, near, redaction). Begin with `flags`: every argument is a row of `flags.tsv`.

::

    flags      llama-server's arguments as data                       -> nothing
    allowlist  what may be set from outside: one list                 -> flags
    discovery  which llama-server, and what it says of itself         -> flags
    embedded   a child program: xllamacpp behind llama-server's flags -> nothing
"""
