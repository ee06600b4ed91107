"""The words of each API: its endpoints, its errors, and what it translates. `app` puts the routes together.

Stands on proxy (requests to children), server (the fast path) and pool. Begin with `app`, then `openai`, the shortest
API. `ollama` is an API that the engine does not speak. A new API is a module or package here, its errors in `dialects`,
its routes in `app` and in `access.permissions`. An endpoint of the router's own is a module beside `news`, with its row
in `access.permissions`.

::

    dialects     how errors look             -> nothing
    home         what browsers see           -> nothing
    probes       /livez, /readyz and /health -> nothing
    details      what pickers show           -> nothing
    endless      streams without an end      -> nothing
    engine_log   what processes write        -> dialects endless
    lone         a llama-server's answers    -> details
    listing      the list of models          -> details lone
    load         load, unload, settings      -> nothing
    metrics      Prometheus metrics          -> dialects
    news         what happens to models      -> endless
    chat_stream  chats of a child            -> nothing
    slots        files of requests           -> nothing
    download     downloads, removals         -> nothing
    estimate     what a load would do        -> nothing
    embeddings   vectors, shortened          -> nothing
    dashboard    a package: what happens     -> dialects endless
    openai       OpenAI's API                -> dialects embeddings
    messages     a package: Anthropic's API  -> dialects chat_stream
    stream       streams to resume           -> dialects
    ollama       a package: Ollama's API     -> dialects details endless chat_stream download
    responses    a package: Responses        -> dialects chat_stream ollama

llama.cpp's own API::

    native  its endpoints -> dialects engine_log lone listing load news slots download estimate messages

Google Cloud's predictions, which are other endpoints under one path::

    predict  predictions -> nothing

All of it together::

    app  all -> dialects home probes metrics download dashboard openai messages stream ollama responses native predict
"""
