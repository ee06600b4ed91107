"""The data API of the dashboard: the state of the router, what changes in it, and what happened.

Stands on pool and events. Begin with `entries`: what one model is as JSON. Then `board`, which keeps all of it.

::

    entries    PURE: models and devices as JSON -> nothing
    requests   those that run, and their ends   -> entries
    board      all of it, kept up to date       -> entries requests
    stream     what changes, as it does         -> board
    endpoints  /router/..., /models/{name}/pin  -> entries board stream
"""
