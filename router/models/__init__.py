"""Which models there are, and what they are started with.

Stands on engine (flags) and hub (names, cache). Begin with `spec`, a model as data, then `catalog`, from a name to a
model, and `build`, from the sources to the catalog. Every flag of llama-server is a key of preset files by itself. A
new key of the router's own belongs in `own_keys` and `spec`, and in `foreign` if files from the hub may have it. A new
fact about what a model can do belongs in `describe`, a new kind of place that holds models beside `folder`. What
`template` finds is used by `proxy.rewrite`, `api.details` and `api.ollama`.

::

    shards     PURE: the file names of a split model                     -> nothing
    metadata   what a GGUF header says, as data, with ggml's tables      -> nothing
    header     reads a header; believes none of its numbers              -> metadata
    gguf       headers of files and of whole models, kept while the same -> shards metadata header
    reduction  what is left of a template if, say, thinking is off       -> nothing
    values     PURE: what Jinja's operators and tests make of values     -> reduction
    trial      whether a chat template refuses a conversation            -> reduction values
    template   what a chat template can do: tools, thinking, roles       -> reduction trial
    stamps     the files of a process, and whether they are the same     -> shards
    spec       one model as data                                         -> shards template
    links      the files that arguments name by addresses                -> spec
    describe   what a model's files say: its Info                        -> metadata gguf template spec
    ini        INI text to lines under sections, and back                -> nothing
    own_keys   keys of presets that are the router's own                 -> spec ini
    foreign    what a preset file from the hub may set                   -> ini own_keys
    presets    INI to frozen presets, and where each value came from     -> spec ini own_keys foreign
    catalog    names to models, and the names that were probably meant   -> spec
    folder     the models in a folder, with their companions             -> shards spec
    created    names and models that clients made, kept in a file        -> spec catalog folder
    build      from presets, folder, cache and command line to a catalog -> shards spec ini presets catalog folder
    check      every mistake in one preset file                          -> ini presets catalog build
    changes    PURE: what a new catalog means for the one before         -> spec catalog
    sources    where the catalog comes from, read again                  -> presets catalog created build
"""
