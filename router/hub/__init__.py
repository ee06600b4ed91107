"""Hugging Face: names, the cache on disk, and downloads in a child program.

Stands on the ground alone. Begin with `repo` (what a name means), then `fetch` (from a name to files).

::

    repo      PURE: names on the hub, and which files they mean        -> nothing
    cache     the Hugging Face cache on disk                           -> repo
    transfer  a child program: huggingface_hub behind lines of JSON    -> repo
    fetch     from a name on the hub to its files in the cache         -> repo cache
    pull      a download by the command line, with a bar for each file -> repo fetch
"""
