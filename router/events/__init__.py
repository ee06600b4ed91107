"""What happened, for whoever listens.

Stands on nothing. Begin with `feed`.

::

    feed  news for whoever listens -> nothing
"""
