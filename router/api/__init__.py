"""The words of each API: its endpoints, its errors, and what it translates. `app` puts the routes together.

Stands on proxy (requests to children), server (the fast path) and pool. Begin with `app`, then `openai`, the shortest
API. `native` has the endpoints of a llama.cpp router; `ollama` is an API that the engine does not speak. A new API is a
module or package here, its errors in `dialects`, its routes in `app` and in `access.permissions`. An endpoint of the
router's own is a module beside `news`, with its row in `access.permissions`.

::

    dialects     how errors look             -> nothing
    home         what browsers see           -> nothing
    probes       /livez, /readyz and /health -> nothing
    details      what pickers show           -> nothing
    lone         a llama-server's answers    -> details
    listing      the list of models          -> details lone
    load         load, unload, settings      -> nothing
    metrics      Prometheus metrics          -> nothing
    news         what happens to models      -> nothing
    chat_stream  chats of a child            -> nothing
    slots        files of requests           -> nothing
    download     downloads, removals         -> nothing
    estimate     what a load would do        -> nothing
    predict      Google Cloud's              -> nothing
    embeddings   vectors, shortened          -> nothing
    openai       OpenAI's API                -> dialects embeddings
    messages     a package: Anthropic's API  -> dialects chat_stream
    native       llama.cpp's own API         -> dialects lone listing load metrics news slots download estimate messages
    stream       streams to resume           -> dialects
    ollama       a package: Ollama's API     -> dialects details chat_stream download
    responses    a package: Responses        -> dialects chat_stream ollama

All of it together::

    app  every route -> dialects home probes listing download predict openai messages native stream ollama responses
"""
