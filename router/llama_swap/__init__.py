"""llama-swap's configuration, made into a preset file: `llama-router import`.

Stands on engine (flags, values) and models (the INI format and its keys). Begin with `convert`, from a text to a
conversion. What a model's entry says is the matter of `model`; what the file says about all of them, of `whole`. A new
setting of llama-swap gets a sentence in the table of one of these two. Nothing of the configuration is run.

::

    document  YAML as plain data with lines, within bounds          -> nothing
    macros    PURE: ${NAME} in the file's texts                     -> nothing
    command   PURE: a command line to llama-server's arguments      -> nothing
    section   PURE: one section of a preset file while it is filled -> macros
    model     one model's entry to its section                      -> document macros command section
    whole     what the file says of all models                      -> document section
    convert   a configuration to a preset file                      -> document macros section model whole
"""
