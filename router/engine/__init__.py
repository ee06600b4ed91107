"""llama-server as data and as a program: its flags, which binary there is, and the embedded one.

Stands on the ground alone (errors, near, redaction). Begin with `flags`: every argument is a row of `flags.tsv`. A flag
that clients may set is a word in `allowlist`. `discovery` chooses the program; it is the only module that runs one.

::

    flags      llama-server's arguments as data                -> nothing
    allowlist  which flags a request may set, and their values -> flags
    discovery  which llama-server, and what it can do          -> flags

The embedded engine, a program that imports no other package of the router::

    embedded.library    xllamacpp, if it is there -> nothing
    embedded.readers    from text to a value      -> embedded.library
    embedded.setters    where a value goes        -> embedded.library embedded.readers
    embedded.table      one row for each flag     -> embedded.readers embedded.setters
    embedded.arguments  argv to CommonParams      -> embedded.library embedded.setters embedded.table
    embedded.server     loads and serves a model  -> embedded.library
    embedded.__main__   its command line          -> embedded.library embedded.table embedded.arguments embedded.server
"""
