"""The words of each API: its endpoints, its errors, and what it translates. `app` puts the routes together.

Stands on proxy (requests to children), server (the fast path) and pool. Begin with `app`, then `openai`, the shortest
API. `native` has the endpoints of a llama.cpp router; `ollama` is an API that the engine does not speak. A new API is a
module or package here, its errors in `dialects`, its routes in `app` and in `access.permissions`. An endpoint of the
router's own is a module beside `news`, with its row in `access.permissions`.

::

    dialects     how each API's errors look         -> nothing
    probes       /livez, /readyz and /health        -> nothing
    details      what model pickers show            -> nothing
    lone         a llama-server's own answers       -> details
    listing      the list of models as JSON         -> details lone
    load         load, unload, settings of a model  -> nothing
    metrics      Prometheus metrics of the router   -> nothing
    news         a stream of what happens to models -> nothing
    chat_stream  what a child's chat streams say    -> nothing
    slots        files that requests write and read -> nothing
    download     downloads and removals             -> nothing
    embeddings   vectors with fewer dimensions      -> nothing
    openai       OpenAI's API                       -> dialects embeddings
    messages     a package: Anthropic's Messages    -> dialects chat_stream
    native       llama.cpp's own API                -> dialects lone listing load metrics news slots download messages
    stream       llama.cpp's resumable streams      -> dialects
    ollama       a package: Ollama's API            -> dialects details chat_stream download
    responses    a package: OpenAI's Responses      -> dialects chat_stream ollama

All of it together::

    predict  Google Cloud's -> nothing
    app      every route    -> dialects probes listing download openai messages native stream ollama responses predict
"""
