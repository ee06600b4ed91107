"""Acts: performs what scheduling decided, and reports back what came of it.

Stands on nearly all below it; machines are handed in. Begin with `pool`: apply an event, perform its effects.

::

    lease      the right to use a running child                      -> nothing
    overrides  settings that a load asks for over a model's own      -> nothing
    download   the border to where missing models come from          -> nothing
    trials     requested settings, until they have proved themselves -> overrides
    run        one process of one model, until it is gone            -> nothing
    status     PURE: a model as clients see it                       -> run
    pool       the shell: effects, leases, news                      -> lease overrides download trials run status
    depot      missing models, and which may be downloaded           -> nothing
"""
