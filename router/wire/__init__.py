"""HTTP to a child. It knows sockets and bytes, nothing of models or pools.

Stands on errors and threads at most. Begin with `upstream`.

::

    address     where a child can be reached                            -> nothing
    head_cache  heads of messages that come again, found by their bytes -> nothing
    answers     PURE: what a child's JSON says, read with suspicion     -> nothing
    upstream    the HTTP client of the data path                        -> address head_cache
"""
