"""Which models there are, and what they are started with.

Stands on engine (flags) and hub (names, cache). Begin with `catalog`: from a name to a ModelSpec.

::

    presets   INI to frozen presets, and where each value came from -> nothing
    gguf      a model file's header                                 -> nothing
    template  what a chat template can be told                      -> nothing
    catalog   every model that could run; names to ModelSpec        -> presets gguf template
    changes   PURE: what a new catalog means for the one before     -> catalog
    sources   where the catalog comes from, read again              -> presets catalog
"""
