"""Which models there are, and what they are started with.

Stands on engine (flags) and hub (names, cache). Begin with `spec`, a model as data, then `catalog`, from a name to a
model, and `build`, from the sources to the catalog. Every flag of llama-server is a key of preset files by itself. A
new key of the router's own belongs in `own_keys` and `spec`, and in `foreign` if files from the hub may have it. A new
fact about what a model can do belongs in `describe`, a new kind of place that holds models beside `folders`, another
program's in `stores`, a kind of file that is no model in `kinds`. What `template` finds is used by `proxy.rewrite`,
`api.details` and `api.ollama`.

::

    shards     PURE: the file names of a split model    -> nothing
    metadata   what a header says, with ggml's tables   -> nothing
    header     reads a header; believes none of it      -> metadata
    kinds      what a file is, if no language model     -> metadata header
    gguf       headers of files, kept while the same    -> shards metadata header
    reduction  what is left of a template with less     -> nothing
    values     PURE: what operators make of values      -> reduction
    trial      which conversations a template refuses   -> reduction values
    template   what a template can do: thinking, roles  -> reduction trial
    spec       one model as data                        -> shards template
    stamps     the files of a process, as they were     -> shards spec
    projector  whether a projector fits a model         -> metadata gguf spec
    describe   what a model's files say: its Info       -> shards metadata kinds gguf template spec projector
    ini        INI text to sections of lines, and back  -> nothing
    own_keys   the router's own keys of presets         -> spec ini
    foreign    what a preset file from the hub may set  -> ini own_keys
    expansion  PURE: ${NAME} and ~ in values of presets -> ini own_keys
    presets    INI to presets, and their values' origin -> spec ini own_keys foreign expansion
    ini_files  preset files, what of them is believed   -> ini presets
    catalog    names to models, and what was meant      -> spec
    tree       what lies below an entry of a folder     -> shards kinds
    folder     models in a folder, and their companions -> shards kinds spec tree
    links      files that arguments name by addresses   -> spec catalog folder
    folders    folders of models, read as they change   -> shards tree folder
    created    names and models that clients made       -> spec catalog folder
    stores     stores of other programs, as Ollama's    -> spec catalog folder folders
    build      from all sources to the catalog          -> shards spec ini presets catalog folder links folders stores
    damage     named files that are there and of no use -> metadata kinds gguf projector
    check      every mistake in one preset file         -> spec ini presets catalog links build damage
    changes    PURE: what a new catalog changes         -> spec catalog
    sources    where the catalog comes from, read again -> spec ini_files catalog folder folders created stores build
    inventory  what `llama-router list` shows           -> spec describe catalog
"""
