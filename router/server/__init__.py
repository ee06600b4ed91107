"""The client's side of a socket: bounds, TLS, and the fast path.

Stands on api (for the routes) and proxy. Begin with `framing`, then `connection`.

::

    framing     what a client sends, a request at a time and within bounds -> nothing
    connection  a client's connection; answers what needs no waiting       -> framing
    tls         a connection until its handshake is done                   -> framing
    openfiles   how many connections the open files allow for              -> nothing
"""
