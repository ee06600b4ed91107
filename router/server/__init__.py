"""The client's side of a socket: where the router listens, limits on clients, TLS, who may ask, and the fast path.

Stands on access and proxy. Begin with `framing`, then `connection`; `fast_path` is the application behind both. What
changes bodies or heads of answers must be done in `connection` too. Certificates are read in `listeners` and used by
`http_server`; `tls` only limits the handshake.

The application::

    prefix          PURE: paths below `--api-prefix`, and without it          -> nothing
    cors            CORS headers of answers                                   -> nothing
    error_handlers  errors outside any endpoint, in the dialect of the path   -> prefix
    fast_path       the ASGI app: origin and key, then the endpoint of a path -> prefix cors error_handlers

Connections::

    admission         limits that clients share                    -> nothing
    clients           the address of a client behind a proxy       -> nothing
    read_buffer       what came and is not processed yet           -> admission
    head_checks       PURE: checks on a head before parsers see it -> nothing
    uvicorn_protocol  uvicorn with its private parts changed       -> nothing
    framing           one request at a time, within limits         -> admission read_buffer head_checks uvicorn_protocol
    small_request     small requests, from bytes to bytes          -> fast_path
    connection        answers without a task     -> fast_path clients head_checks framing small_request
    tls               a connection during its handshake            -> admission framing

The server::

    addresses    the addresses of --host, and their sockets        -> nothing
    openfiles    how many connections the open files allow for     -> nothing
    listeners    sockets, URLs, certificate, names of this machine -> addresses
    activation   sockets that a service manager has opened         -> nothing
    supervisor   tells a service manager how the router is doing   -> nothing
    life_cycle   how far a router is between start and end         -> nothing
    http_server  uvicorn's server: TLS, signals, the end           -> fast_path admission connection tls life_cycle
"""
