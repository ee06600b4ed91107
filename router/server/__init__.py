"""The client's side of a socket: limits, TLS, who may ask, and the fast path.

Stands on access and proxy. Begin with `framing`, then `connection`.

::

    cors            CORS headers of answers                                    -> nothing
    error_handlers  errors outside any endpoint, in the dialect of the path    -> nothing
    fast_path       the ASGI app in front: origin, key, then the endpoint      -> cors error_handlers
    framing         what a client sends, a request at a time and within limits -> nothing
    connection      a client's connection; answers small requests by itself    -> fast_path framing
    tls             a connection until its handshake is done                   -> framing
    openfiles       how many connections the open files allow for              -> nothing
    listeners       sockets, URLs, certificate, names of this machine          -> nothing
    http_server     uvicorn's server: TLS, signals, the end                    -> fast_path framing connection tls
"""
