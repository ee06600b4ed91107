"""Prometheus metrics: counted by what happens, kept as text, handed out at a scrape.

Stands on `pool`, whose journal it hears, and on `records`. Begin with `names`, which has all metrics, then `exporter`.

::

    exposition    PURE: the two formats                          -> nothing
    families      counters, gauges and histograms with kept text -> exposition
    names         all metrics of the router                      -> families
    tally         counts events and requests                     -> families names
    live          reads what is so at a scrape                   -> families names tally
    process       the metrics of the router's process            -> families
    lag           how late the event loop is                     -> nothing
    engines       PURE: the engines' own metrics as one text     -> exposition
    engine_texts  asks the engines for them                      -> engines

All of it, and its text::

    exporter  all -> exposition names tally live process lag engines engine_texts
"""
