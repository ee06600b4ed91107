"""llama.cpp's own chat page: taken out of an engine, kept on disk, and handed to whoever serves it.

Stands on node (a child of the engine), wire (what the child is asked) and engine. Nothing of the page is in this
repository: it belongs to the engine's build, and changes with it. Begin with `chat_page`. `api.home` serves the files.

::

    names      PURE: what a file of a page may be called, and what it names itself -> nothing
    files      PURE: one file of a page: packed, checked, with its headers         -> names
    tiny       PURE: a model of a few KiB, for a child that only shows its page    -> nothing
    source     a child of an engine, asked for its page                            -> names files tiny
    shelf      pages on disk, one folder for each build                            -> names files
    chat_page  the page of this router, from the first that has one                -> names files source shelf
"""
