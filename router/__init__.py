"""llama-router: one port in front of many llama-server children.

Three owners: `scheduling.policy` decides, `scheduling.scheduler` remembers, `pool.pool` acts. Each package's docstring
says what lives there, on what it stands and where to begin, and maps its modules. A test compares all maps with the
imports, both ways. Arrows point up the page only.

How a request goes through:

1. `server.framing` cuts it out of its connection, within limits. `server.connection` answers it here if its head was
   seen before, its model runs, and nothing must wait: the fast path. Else `server.fast_path` has `access.guard` check
   page, host and key, which says yes or no and nothing of the key goes further.
2. An endpoint of `api` reads the body (`proxy.body`), finds the model (`models.catalog`) and returns a
   `proxy.proxied_request`. What changes requests or answers for all APIs belongs in `proxy`, and must hold in
   `server.connection` too.
3. `pool` has the need estimated (`memory.estimator`) and asks `scheduling` for a lease; it starts and stops children
   through `node` until the lease is granted.
4. `wire` sends the request to the child; the bytes of the answer go out as they come, then the lease is released.

How an option goes through: a row in `settings`, read by `plan`, which makes the parts' own limits of it
(`scheduling.limits`, `node`), or by `serve`, which hands it to the part that it is for.

Below the ground::

    text  PURE: names and paths of any bytes, made fit for JSON -> nothing

The ground, which everything may use (left out of the arrows further down)::

    errors     the tree of errors: status, code, Retry-After              -> text
    units      amounts as people read them                                -> nothing
    files      reads files that others wrote: regular ones, within bounds -> nothing
    threads    threads for work that blocks, by purpose                   -> errors
    redaction  PURE: text without keys, tokens and credentials            -> nothing
    near       PURE: the names that were probably meant                   -> nothing
    logs       what the router writes for people                          -> redaction
    watch      reports when a file has been written                       -> nothing

Packages, and what stands below them::

    patience    work for many paths, some of them hang -> nothing
    scheduling  PURE: decides and remembers            -> nothing
    engine      llama-server as data and as a program  -> text
    access      PURE: which request may do what        -> nothing
    wire        HTTP to a child                        -> nothing
    events      what happened, for all who listen      -> scheduling
    records     what each request was, and took        -> nothing
    telemetry   traces for OpenTelemetry               -> records
    node        a machine: its memory, its processes   -> text scheduling engine wire
    hub         Hugging Face: names, cache, downloads  -> patience
    models      which models there are                 -> text patience engine hub
    llama_swap  its configuration as a preset file     -> engine models
    memory      what a model needs, in bytes           -> scheduling engine models
    pool        acts: leases, loads, effects           -> scheduling engine wire events node hub models memory
    metrics     for Prometheus                         -> scheduling engine wire events records node models pool
    proxy       what every dialect shares              -> text engine wire records models memory pool
    page        llama.cpp's own chat page              -> engine wire node
    server      the client's side of a socket          -> access wire records pool proxy

What clients ask for::

    api  words of dialects -> text engine access wire events records hub models memory pool metrics proxy page server

The assembly::

    options    kinds of values for options         -> engine access
    config     the file of --config                -> engine models options
    key_file   the keys of clients in a file       -> nothing
    settings   one frozen Settings, row by row     -> engine options config key_file
    variables  PURE: variables that set nothing    -> engine options
    plan       what a command line means           -> scheduling engine node hub models memory config settings variables
    reloader   keeps the catalog as its sources    -> events models memory pool
    ending     what each stage of the end means    -> node pool server reloader
    serve      a router that serves, from a plan   -> everything
    check      mistakes in files and variables     -> engine hub models options config settings variables plan
    imports    llama-swap's file to a preset file  -> engine llama_swap config plan
    service    a router as a service of systemd    -> engine plan settings
    demo       tiny models, a first conversation   -> nothing
    crowd      people who ask all the time         -> nothing
    greeting   PURE: the first line of the log     -> settings
    client     commands against a router that runs -> text engine access node server options key_file settings

The program::

    commands  tasks -> scheduling engine hub models memory server settings plan serve check imports service demo crowd client
    __main__  start -> everything
"""  # noqa: E501 - an arrow is one line

__version__ = "0.1.0"
