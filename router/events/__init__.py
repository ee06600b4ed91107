"""What happened, for all who listen.

Stands on scheduling, for the causes of stops. Begin with `kinds`: what can happen. `pool` tells the `journal`, and all
who want to know subscribe there. `feed` is the older stream of llama.cpp's clients.

::

    kinds       PURE: what can happen, one class for each kind       -> nothing
    sentences   PURE: what has happened, as a sentence               -> kinds
    journal     all that happens, for subscribers; the last is kept  -> kinds sentences
    log_lines   log lines of what happens                            -> kinds journal
    feed        broadcasts news; a slow subscriber costs only itself -> nothing
    change_log  which models changed since a version                 -> feed
"""
