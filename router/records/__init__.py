"""One record of each request to a model: what it was, what it took, how it ended. Never its content, never a key.

Stands on nothing. Begin with `record`, then `records`. Whoever tells of requests (the API, metrics, access log, traces)
reads `Records` or subscribes to it; `proxy` begins the records and ends them, each in one place.

::

    record        PURE: what is kept of a request                        -> nothing
    tokens        PURE: the engine's counts at the end of an answer      -> nothing
    running       a request that has not ended                           -> record tokens
    small         those of the fast path, many at once                   -> record tokens running
    speed         tokens per second, now                                 -> record running
    totals        how many requests the last hour had                    -> nothing
    records       the running ones, the last ones, and who wants to know -> record running small speed totals
    access_lines  lines of the log for requests that have ended          -> record running records
"""
