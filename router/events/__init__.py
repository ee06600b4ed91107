"""What happened, for all who listen.

Stands on nothing. Begin with `feed`.

::

    feed        broadcasts news; a slow subscriber costs only itself -> nothing
    change_log  which models changed since a version                 -> feed
"""
