"""llama-router: one port in front of many llama-server children.

Three owners: `policy` decides, `scheduler` remembers, `pool` acts. A module imports only what its line names; a test
compares these lines with the code, both ways.

::

    errors         the tree of errors: status, code, Retry-After              -> nothing
    budget         bytes that clients may have the router hold for them       -> errors
    files          files that others wrote: regular ones only, within bounds  -> nothing
    threads        threads for what blocks, by purpose and with patience      -> errors
    policy         PURE: where a model goes, and who must go for it           -> nothing
    scheduler      SANS-I/O: states, leases, the queue; events to effects     -> policy
    refusals       PURE: why the scheduler refuses, as errors                 -> errors scheduler
    node           the border between the pool and a machine                  -> policy
    lease          the right to use a running child                           -> node
    feed           news for whoever listens                                   -> nothing
    near           PURE: the names that were probably meant                   -> nothing
    flags          llama-server's arguments as data                           -> errors near redaction
    settings       one frozen Settings; one row an option                     -> errors files flags origins
    presets        INI to frozen presets, and where each value came from      -> allowlist errors files flags near
    needs          PURE: what each route needs of whoever asks                -> nothing
    origins        PURE: names of hosts, origins of pages, and who is listed  -> needs
    doors          PURE: who may ask for what: host, page, type and key       -> errors needs origins
    allowlist      what may be set from outside: one list                     -> flags
    gguf           a model file's header                                      -> errors files
    repo           PURE: names on the hub, and which files they mean          -> errors
    hub            the Hugging Face cache on disk                             -> errors files repo
    transfer       a child program: huggingface_hub behind lines of JSON      -> errors redaction repo
    fetch          from a name on the hub to its files in the cache           -> errors hub redaction repo threads
    pull           a download by the command line, with a bar for each file   -> fetch logs policy repo
    redaction      PURE: text without keys, tokens and the credentials of URLs-> nothing
    logs           what the router writes for people; nobody waits for whoever reads it-> redaction
    template       what a chat template can be told                           -> nothing
    catalog        every model that could run; names to ModelSpec             -> errors files flags gguf hub near presets repo template
    kv             what a context keeps for each layer                        -> gguf
    compute        the buffers in which a batch is computed                   -> gguf kv
    weights        where the engine puts each tensor                          -> flags gguf kv
    memory         header and flags, or the engine's measure, to bytes        -> compute flags gguf kv policy weights
    engine         which llama-server, and what it says of itself             -> errors flags
    footprints     what models really took, kept across restarts              -> files
    estimate       a model's need from the best source there is               -> catalog engine errors files flags footprints gguf memory policy threads
    overrides      what a load asks for over a model's own settings           -> allowlist catalog errors flags kv near
    download       the border between the pool and where missing models come from-> catalog node
    trials         settings that were asked for, until they have proved themselves-> catalog estimate flags overrides
    changes        PURE: what a new catalog means for the one before          -> catalog
    sources        where the catalog comes from, read again                   -> catalog flags hub presets settings
    forecast       what a model would take, and who would go for it           -> catalog estimate memory policy
    devices        what memory there is; wait until it settles                -> policy
    embedded       a child program: xllamacpp behind llama-server's flags     -> nothing
    crash          how a child ended, in a sentence                           -> node
    orphans        children do not outlive their router                       -> errors
    process        one child: spawn, drain, ready, stop                       -> answers crash errors node orphans redaction upstream
    readahead      files of a start that waits, into the page cache           -> files policy
    local          this machine as a node                                     -> devices engine errors node orphans policy process readahead redaction threads
    run            one process of one model, until it is gone                 -> catalog errors footprints node policy
    status         PURE: a model as clients see it                            -> node run scheduler
    pool           the shell: effects, leases, news                           -> catalog changes download errors estimate feed flags footprints lease node overrides policy refusals run scheduler status threads trials
    depot          models that are not here yet: which may be fetched         -> catalog errors fetch flags gguf hub node policy redaction repo sources threads
    heads          heads of messages that come again, found by their bytes    -> nothing
    answers        PURE: what a child's JSON says, read with suspicion        -> errors
    upstream       the HTTP client of the data path                           -> errors heads node
    api/weight     how much work a body is, before it is read                 -> errors
    api/body       what a request body says to the router                     -> api/weight budget errors threads
    api/rewrite    PURE: what the router changes in a request                 -> api/body errors presets
    api/head       the head of a request, and what follows from it alone      -> upstream
    api/proxy      one request through to a child; holds the lease            -> answers api/head errors node upstream
    api/conversation streams that go on when their client has left            -> answers errors lease upstream
    api/gateway    from a named model to its passage                          -> api/body api/conversation api/head api/proxy api/rewrite budget catalog depot errors estimate flags pool upstream
    api/details    what pickers show of a model                               -> catalog
    api/listing    the list of models, kept ready                             -> api/details catalog estimate flags pool presets status
    api/load       load, unload and settings of one model                     -> api/body api/gateway catalog errors flags overrides pool
    api/metrics    Prometheus metrics of the router                           -> pool
    api/openai     OpenAI's API and llama.cpp's twins of it                   -> api/gateway errors
    api/slots      what requests have written to files, and read              -> api/body api/head catalog errors flags pool
    api/anthropic  Anthropic's Messages API                                   -> api/gateway api/openai errors
    api/prompt     PURE: a request of Ollama's API in llama-server's words    -> api/rewrite errors template
    api/reply      llama-server's answers in Ollama's words                   -> answers api/prompt api/proxy api/rewrite errors upstream
    api/library    Ollama's view of the catalog; names that clients made      -> api/details api/prompt api/reply catalog errors gguf pool threads
    api/ollama     Ollama's API                                               -> allowlist api/body api/gateway api/head api/library api/openai api/prompt api/proxy api/reply api/rewrite errors flags repo template
    api/native     llama.cpp's router dialect                                 -> answers api/gateway api/listing api/load api/metrics api/openai api/slots catalog changes errors forecast pool upstream
    api/download   models from the hub, by llama.cpp's and Ollama's endpoints -> api/body api/gateway api/ollama api/openai depot errors node repo
    api/stream     llama.cpp's resumable streams                              -> api/body api/conversation api/gateway api/head api/openai api/proxy errors
    app            create_app(): routes behind their doors, lifespan          -> api/anthropic api/download api/gateway api/head api/listing api/native api/ollama api/openai api/proxy api/stream catalog changes doors errors forecast heads needs origins
    framing        what a client sends, a request at a time and within bounds -> nothing
    connection     a client's connection; answers what needs no waiting       -> api/head api/proxy app framing heads
    tls            a connection until its handshake is done                   -> framing
    openfiles      how many connections the open files allow for              -> nothing
    watch          tells when a file has been written                         -> nothing
    serve          the assembly: from settings to a router that serves        -> api/gateway app budget catalog changes connection depot devices engine errors estimate fetch files flags footprints forecast framing hub local logs openfiles origins policy pool repo scheduler settings sources threads tls upstream watch
    demo           tiny models with random weights, and a first conversation  -> errors
    __main__       the command line                                           -> catalog demo errors flags forecast hub logs near policy pull redaction repo serve settings
"""  # noqa: E501

__version__ = "0.1.0"
