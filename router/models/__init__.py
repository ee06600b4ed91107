"""Which models there are, and what they are started with.

Stands on engine (flags) and hub (names, cache). Begin with `spec`, a model as data, then `catalog`, from a name to a
model, and `build`, from the sources to the catalog. Every flag of llama-server is a key of preset files by itself. A
new key of the router's own belongs in `own_keys` and `spec`, and in `foreign` if files from the hub may have it. A new
fact about what a model can do belongs in `describe`, a new kind of place that holds models beside `folders`, another
program's in `stores`, a kind of file that is no model in `kinds`. What `template` finds is used by `proxy.rewrite`,
`api.details` and `api.ollama`.

::

    shards     PURE: the file names of a split model    -> nothing
    metadata   a GGUF header, and ggml's tables         -> nothing
    header     reads a header, believes no number       -> metadata
    kinds      what a file is that is no model          -> metadata header
    gguf       headers of files and models, kept        -> shards metadata header
    reduction  a template without its thinking          -> nothing
    values     PURE: what Jinja's operators do          -> reduction
    trial      what conversations a template refuses    -> reduction values
    template   what a template can do                   -> reduction trial
    stamps     a process's files, and their identity    -> shards
    spec       one model as data                        -> shards template
    projector  whether a projector fits a model         -> metadata gguf spec
    describe   what a model's files say: its Info       -> shards metadata kinds gguf template spec projector
    ini        INI text to lines in sections, and back  -> nothing
    own_keys   the router's own keys of presets         -> spec ini
    foreign    what a preset from the hub may set       -> ini own_keys
    expansion  PURE: ${NAME} and ~ in values of presets -> ini own_keys
    presets    INI to presets, with origins of values   -> spec ini own_keys foreign expansion
    catalog    names to models, and near names          -> spec
    tree       what lies below an entry of a folder     -> shards kinds
    folder     models in a folder, with companions      -> shards kinds spec tree
    links      files that arguments name by addresses   -> spec folder
    folders    folders of models, read as they change   -> shards tree folder
    created    names and models that clients made       -> spec catalog folder
    stores     stores of other programs                 -> spec catalog folder folders
    build      from the sources to the catalog          -> shards spec ini presets catalog folder links folders stores
    check      every mistake in one preset file         -> ini presets catalog links build
    changes    PURE: a new catalog against the old      -> spec catalog
    sources    where the catalog comes from             -> spec presets catalog folder folders created stores build
    inventory  what `llama-router list` shows           -> spec describe catalog
"""
