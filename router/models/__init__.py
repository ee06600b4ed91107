"""Which models there are, and what they are started with.

Stands on engine (flags) and hub (names, cache). Begin with `spec`, a model as data, then `catalog`, from a name to a
model, and `build`, from the sources to the catalog. Every flag of llama-server is a key of preset files by itself. A
new key of the router's own belongs in `own_keys` and `spec`, and in `foreign` if files from the hub may have it. A new
fact about what a model can do belongs in `describe`, a new kind of place that holds models beside `folders`, another
program's in `stores`, a kind of file that is no model in `kinds`. What `template` finds is used by `proxy.rewrite`,
`api.details` and `api.ollama`.

::

    shards     PURE: the file names of a split model        -> nothing
    metadata   what a GGUF header says, with ggml's tables  -> nothing
    header     reads a header; believes none of its numbers -> metadata
    kinds      what a file is that is no model              -> metadata header
    gguf       headers of files and models, kept            -> shards metadata header
    reduction  a template without its thinking              -> nothing
    values     PURE: what Jinja's operators make of values  -> reduction
    trial      whether a template refuses a conversation    -> reduction values
    template   what a template can do: thinking, roles      -> reduction trial
    stamps     a process's files, and if they are the same  -> shards
    spec       one model as data                            -> shards template
    projector  whether a projector belongs to a model       -> metadata gguf spec
    describe   what a model's files say: its Info           -> shards metadata kinds gguf template spec projector
    ini        INI text to lines under sections, and back   -> nothing
    own_keys   keys of presets that are the router's own    -> spec ini
    foreign    what a preset file from the hub may set      -> ini own_keys
    expansion  PURE: ${NAME} and ~ in the values of presets -> ini own_keys
    presets    INI to presets, and where values came from   -> spec ini own_keys foreign expansion
    catalog    names to models, and names that were meant   -> spec
    tree       what lies below one entry of a models folder -> shards kinds
    folder     models in a folder, with companions          -> shards kinds spec tree
    links      files that arguments name by addresses       -> spec folder
    folders    folders of models, read as they change       -> shards tree folder
    created    names and models that clients made           -> spec catalog folder
    stores     stores of other programs, such as Ollama's   -> spec catalog folder folders
    build      from all sources to the catalog              -> shards spec ini presets catalog folder links folders stores
    check      every mistake in one preset file             -> ini presets catalog build
    changes    PURE: what a new catalog means for the old   -> spec catalog
    sources    where the catalog comes from, read again     -> spec presets catalog folder folders created stores build
"""
