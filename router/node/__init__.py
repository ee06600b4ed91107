"""A machine that runs children: its memory, its processes, and how they end.

Stands on scheduling (devices as data), wire (to ask a child how it is) and engine. Begin with `border`, which is what
the pool needs of a machine; then `local`, this machine.

::

    border     the border between the pool and a machine        -> nothing
    devices    what memory there is; wait until it settles      -> nothing
    crash      how a child ended, in a sentence                 -> border
    orphans    children do not outlive their router             -> nothing
    process    one child: spawn, drain, ready, stop             -> border crash orphans
    readahead  files of a start that waits, into the page cache -> nothing
    local      this machine as a node                           -> border devices orphans process readahead
"""
