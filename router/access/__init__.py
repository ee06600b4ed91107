"""Which request may do what: hosts, origins of pages, keys, and the permission that each route takes.

Stands on errors alone, and does no I/O. Begin with `permissions`, the table of routes; then `guard`, which decides: it
answers yes, or an error, and does not say which key a client has. A new endpoint gets its row in `permissions`.

::

    permissions  PURE: which permission each route takes         -> nothing
    hosts        PURE: the host names that the router answers to -> nothing
    origins      PURE: the origins whose pages may use it        -> permissions hosts
    keys         PURE: API keys and admin keys                   -> permissions
    guard        PURE: whether a request is let in               -> permissions hosts origins keys
"""
