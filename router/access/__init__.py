"""Who may ask for what: hosts, origins of pages, keys, and what each route needs.

Stands on errors alone, and does no I/O. Begin with `needs`, the table of routes; then `doors`, which decides.

::

    needs    PURE: what each route needs of whoever asks               -> nothing
    origins  PURE: names of hosts, origins of pages, and who is listed -> needs
    doors    PURE: who may ask for what: host, page, type and key      -> needs origins
"""
