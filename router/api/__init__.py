"""The words of each dialect, and nothing else; `app` puts the routes together.

Stands on proxy and pool. Begin with `app`, then `openai`, the shortest dialect.

::

    details    what pickers show of a model                    -> nothing
    listing    the list of models, kept ready                  -> details
    load       load, unload and settings of one model          -> nothing
    metrics    Prometheus metrics of the router                -> nothing
    openai     OpenAI's API and llama.cpp's twins of it        -> nothing
    slots      what requests have written to files, and read   -> nothing
    anthropic  Anthropic's Messages API                        -> openai
    prompt     PURE: Ollama's requests in llama-server's words -> nothing
    reply      llama-server's answers in Ollama's words        -> prompt
    library    Ollama's view of the catalog                    -> details prompt reply
    ollama     Ollama's API                                    -> openai prompt reply library
    native     llama.cpp's router dialect                      -> listing load metrics openai slots
    download   downloads by llama.cpp's and Ollama's words     -> openai ollama
    stream     llama.cpp's resumable streams                   -> openai
    app        create_app(): routes and doors                  -> listing openai anthropic ollama native download stream
"""
